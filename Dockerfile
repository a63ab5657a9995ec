# Two images from one file, both for linux/amd64 and without root:
#   docker build --target api    -t opensloth-api .       the HTTP API and the migrations, without torch
#   docker build --target worker -t opensloth-worker .    worker and trainers, with CUDA and Unsloth
# Every package comes with the version and the hash of its lock file; both locks are made by `make lock`.

FROM python:3.12-slim-trixie AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    OPENSLOTH_HOME=/var/lib/opensloth \
    OPENSLOTH_STORAGE_URL=/storage
# Named volumes take over the owner of the folder that they are mounted on.
RUN useradd --uid 10001 --user-group --create-home opensloth \
    && install --directory --owner opensloth --group opensloth --mode 0750 /var/lib/opensloth /storage
WORKDIR /app


FROM base AS api
COPY requirements-api.lock ./
RUN python -m pip install --require-hashes --no-deps --only-binary=:all: -r requirements-api.lock
COPY migrations migrations
COPY opensloth opensloth
COPY api api
RUN python -m compileall -q migrations opensloth api
USER 10001:10001
EXPOSE 8400
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-P", "-c", "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('OPENSLOTH_PORT', 8400)), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-P", "-m", "uvicorn", "api.main:app", "--no-access-log", "--timeout-graceful-shutdown", "5", "--http", "api.framing:Http", "--host", "0.0.0.0", "--port", "8400"]


FROM base AS worker
# Triton compiles small C programs when a kernel is first used. Debian keeps only the newest version of a package, so
# that a pinned one would break the build with the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-worker.lock ./
RUN python -m pip install --require-hashes --no-deps --only-binary=:all: -r requirements-worker.lock
COPY migrations migrations
COPY opensloth opensloth
COPY worker worker
RUN python -m compileall -q migrations opensloth worker
# The driver comes from the host; models of the hub and compiled kernels are kept in the worker's volume.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HOME=/var/lib/opensloth/huggingface \
    TRITON_CACHE_DIR=/var/lib/opensloth/kernels/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/opensloth/kernels/inductor
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["python", "-P", "-m", "celery", "-A", "worker.app", "worker", "-P", "threads", "--loglevel", "INFO"]
