# The package with its pinned dependencies, for CPU or GPU: docker run --gpus all -v "$PWD":/work alexprep shard --src imagenet/

FROM python:3.11-slim-bookworm AS build
# A pinned version is gone from Debian's mirrors with the next one.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock pyproject.toml setup.py README.md LICENSE ./
COPY pipeline pipeline
COPY model model
COPY cli cli
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python -m venv /opt/alexprep \
 && grep -E '^(setuptools|wheel|build|packaging|pyproject_hooks)==' requirements.lock > build.lock \
 && python -m pip install --no-cache-dir --requirement build.lock \
 && python -m build --wheel --no-isolation --outdir /wheels \
 && /opt/alexprep/bin/python -m pip install --no-cache-dir --constraint requirements.lock "$(echo /wheels/alexprep-*.whl)[cuda12]"

# docker build --target serve -t alexprep-serve . : `alexprep serve` alone, without torch and DALI (it gives records and views)
FROM build AS build-serve
RUN python -m venv /opt/serve \
 && /opt/serve/bin/python -m pip install --no-cache-dir --constraint requirements.lock /wheels/alexprep-*.whl

FROM python:3.11-slim-bookworm AS serve
COPY --from=build-serve /opt/serve /opt/serve
RUN useradd --create-home --uid 1000 alexprep
ENV PATH=/opt/serve/bin:$PATH
USER 1000
WORKDIR /work
EXPOSE 8815 8816
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8816/healthz', timeout=5)"]
ENTRYPOINT ["alexprep", "serve"]
CMD ["/shards"]

FROM python:3.11-slim-bookworm
COPY --from=build /opt/alexprep /opt/alexprep
RUN useradd --create-home --uid 1000 alexprep
ENV PATH=/opt/alexprep/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 1000
WORKDIR /work
CMD ["alexprep", "--help"]
