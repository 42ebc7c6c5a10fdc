# The front door: serve and exporter run from this image. No PyTorch in it.
#
# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_TRUSTED_HOST choose the package index of the build.
FROM python:3.11.14-slim-bookworm AS build

ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_TRUSTED_HOST=""

WORKDIR /source
COPY constraints.txt ./
RUN python -m venv /opt/gradsight \
    && PIP_CONSTRAINT=constraints.txt /opt/gradsight/bin/pip install --no-cache-dir --upgrade pip
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY insight insight
COPY models models
COPY store store
COPY service service
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/gradsight/bin/pip install --constraint constraints.txt --build-constraint constraints.txt ".[service]"

FROM python:3.11.14-slim-bookworm

RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/gradsight gradsight
COPY --from=build /opt/gradsight /opt/gradsight
ENV PATH=/opt/gradsight/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GRADSIGHT_ARTIFACTS=/var/lib/gradsight/artifacts

USER 10001:10001
WORKDIR /var/lib/gradsight
EXPOSE 7117 9117 9118
VOLUME /var/lib/gradsight
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9118/readyz', timeout=2)"]
ENTRYPOINT ["gradsight"]
# Plaintext inside the network of the containers: TLS ends in front of it (ingress, mesh, another proxy).
CMD ["serve", "--address", "0.0.0.0:7117", "--metrics-address", "0.0.0.0:9118", "--insecure-listen"]
