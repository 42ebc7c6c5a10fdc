# The store: Valkey with settings that lose no job.
FROM valkey/valkey:9.1.2-alpine

COPY deploy/store/valkey.conf /etc/valkey/valkey.conf

# The image's own user, by number, so that a cluster can see that it is not root.
USER 999:1000
EXPOSE 6379
VOLUME /data
HEALTHCHECK --interval=2s --timeout=2s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "valkey-cli ping | grep -q PONG"]
CMD ["valkey-server", "/etc/valkey/valkey.conf"]
