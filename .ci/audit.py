"""Look up the locked packages in a database of known vulnerabilities.

    make audit

pip-audit calls a package that its database does not have neither safe nor a mistake, and says "No
known vulnerabilities" even if it has found none of them, as behind an index without that database.
Exit code 0: none are known, or nothing could be looked up, which the output says. 1: some are.
"""

import json
import re
import subprocess
import sys

_UNREACHABLE = re.compile(r"ConnectionError|ConnectTimeout|ReadTimeout|HTTPError|ServiceError")


def main(pip_audit: str, *locks: str) -> int:
    """Audit lock files.

    Args:
        pip_audit: the command.
        locks: the files.
    """
    files = [option for lock in locks for option in ("-r", lock)]
    options = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "-f", "json")
    done = subprocess.run(  # noqa: S603  as the Makefile installed it
        [pip_audit, *options, *files], capture_output=True, text=True, timeout=600, check=False
    )
    if not done.stdout.startswith("{"):
        if _UNREACHABLE.search(done.stderr):
            print("NOT audited: the database of vulnerabilities cannot be reached.")
            return 0
        print(done.stderr[-2000:], file=sys.stderr)
        return 1
    packages = json.loads(done.stdout)["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        print(
            f"NOT audited: the database has none of the {len(packages)} packages, if it is there."
        )
        return 0
    found = [(package, one) for package in packages for one in package.get("vulns", ())]
    for package, one in found:
        fixed = ", ".join(one["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {one['id']}, mended in {fixed}")
    print(f"{len(packages) - len(unknown)} packages audited, {len(found)} known vulnerabilities.")
    if unknown:
        print(f"NOT audited: {', '.join(unknown)}: not in the database.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
