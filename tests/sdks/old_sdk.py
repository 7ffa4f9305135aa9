"""Read one chat stream with whatever openai package this python has, and print what it gave.

Run by ``test_openai.py`` with the python of another environment: ``python old_sdk.py BASE_URL``.
"""

import json
import sys

import openai


def main() -> None:
    client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-test", max_retries=0)
    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    text, told = "", []
    for chunk in stream:
        delta = chunk.choices[0].delta  # what people write: no look at whether there is a choice
        text += delta.content or ""
        extra = chunk.model_extra or {}
        if "toolCallId" in extra:
            told.append([extra["toolCallId"], extra["status"]])
    print(json.dumps({"version": openai.__version__, "text": text, "told": told}))


if __name__ == "__main__":
    main()
