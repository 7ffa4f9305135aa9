# docker build -t lifecycle-proxy .
# docker run --rm -p 127.0.0.1:8787:8787 --read-only -e LIFECYCLE_PROXY_UPSTREAM=http://my-backend:8000/v1 lifecycle-proxy

# By its tag. This pins it by its digest:
#   sed -i "s|^ARG BASE=.*|ARG BASE=python:3.13-slim@$(docker buildx imagetools inspect python:3.13-slim --format '{{.Manifest.Digest}}')|" Dockerfile
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY locks ./locks
# Everything that is downloaded is in locks/, with its hashes. Wheels only: to build a source
# distribution pip would download what it names.
RUN python -m venv /opt/build && python -m venv /opt/venv \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r locks/build.txt \
    && /opt/venv/bin/pip install --require-hashes --only-binary :all: -r locks/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/venv/bin/pip install --no-index --no-deps /dist/*.whl

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
# Nothing is written at run time, so the root file system may be read-only. (Several workers share their
# metrics in files: they need --tmpfs /tmp.) The health check uses http on port 8787.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LIFECYCLE_PROXY_LISTEN=0.0.0.0:8787
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8787
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8787, timeout=3); c.request('GET', '/-/healthy'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["lifecycle-proxy"]
CMD ["serve"]
