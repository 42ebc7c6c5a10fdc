# Prometheus with the targets of deploy/compose.yaml.
FROM prom/prometheus:v3.5.0

COPY deploy/prometheus/prometheus.compose.yml /etc/prometheus/prometheus.yml
COPY deploy/prometheus/rules /etc/prometheus/rules

USER 65534:65534
EXPOSE 9090
HEALTHCHECK --interval=5s --timeout=2s --start-period=30s --retries=3 \
    CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9090/-/ready"]
