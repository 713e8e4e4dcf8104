# Two images:  --target qsfs     zdb, zdbfs, zstor and hookd: a file system whose last byte is stored
#              --target storage  hookd mount: a remote mounted by rclone whose last byte is uploaded
#
# Programs that lie in rootfs/components/ are taken; what is absent there is downloaded, in the version of the
# build argument and, where its _SHA256 is given, compared with that.
#
# BuildKit is not needed. The older builder makes the stages before the target too, used or not.
#
# Behind a proxy with a certificate of its own: --build-arg PIP_CERT=/path/in/the/base/image,
# http_proxy and https_proxy as usual.

ARG BASE=debian:bookworm-slim

# ---- hookd and its shim, installed in /opt/hookd -----------------------------------------------------------
FROM ${BASE} AS wheel
ARG PIP_CERT
ARG PIP_INDEX_URL
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev python3-minimal python3-pip python3-venv
WORKDIR /src
COPY requirements.lock ./
# Everything that the lock names, compared with its hashes; what is not needed to run hookd stays here.
RUN pip wheel --quiet --require-hashes --no-deps --wheel-dir /wheels -r requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY hookd hookd
RUN python3 -m venv /build \
 && /build/bin/pip install --quiet --no-index --find-links /wheels hatchling \
 && /build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
 && python3 -m venv --without-pip /opt/hookd \
 && pip --python /opt/hookd/bin/python install --quiet --no-index --find-links /wheels /dist/hookd-*.whl \
 && /opt/hookd/bin/hookd --version

# ---- the programs around it ---------------------------------------------------------------------------------
FROM ${BASE} AS fetch
COPY rootfs/fetch-component /usr/local/bin/
COPY rootfs/components /given

FROM fetch AS components
# Another place with the same paths below it: a mirror.
ARG COMPONENTS_URL=https://github.com/threefoldtech
ARG ZDB_VERSION=2.0.5
ARG ZDB_SHA256
ARG ZDBFS_VERSION=0.1.11
ARG ZDBFS_SHA256
ARG ZSTOR_VERSION=0.4.0
ARG ZSTOR_SHA256
ARG ZINIT_VERSION=0.2.10
ARG ZINIT_SHA256
RUN URL=$COMPONENTS_URL \
 && fetch-component zdb "$URL/0-db/releases/download/v$ZDB_VERSION/zdb-$ZDB_VERSION-linux-amd64-static" "$ZDB_SHA256" \
 && fetch-component zdbfs "$URL/0-db-fs/releases/download/v$ZDBFS_VERSION/zdbfs-$ZDBFS_VERSION-amd64-linux-static" "$ZDBFS_SHA256" \
 && fetch-component zstor "$URL/0-stor_v2/releases/download/v$ZSTOR_VERSION/zstor_v2-x86_64-linux-musl" "$ZSTOR_SHA256" \
 && fetch-component zinit "$URL/zinit/releases/download/v$ZINIT_VERSION/zinit" "$ZINIT_SHA256"

# ---- what both images have -----------------------------------------------------------------------------------
FROM ${BASE} AS python
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3-minimal libpython3-stdlib \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
        /usr/share/doc/* /usr/share/man/* \
 && touch /etc/environment
COPY --from=wheel /opt/hookd /opt/hookd
RUN ln -s /opt/hookd/bin/hookd /opt/hookd/bin/hookd-shim /usr/bin/ \
 && hookd --version \
 && { hookd-shim 2>/dev/null; [ $? -eq 100 ]; }
STOPSIGNAL SIGTERM
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- the file system -------------------------------------------------------------------------------------------
FROM python AS qsfs
COPY --from=components /components/ /usr/bin/
COPY rootfs/etc/ /etc/
COPY rootfs/usr/bin/qsfs-init /usr/bin/
RUN for program in zdb zstor zinit; do "$program" --version >/dev/null || exit 1; done \
 && zdbfs --version | grep -q 'FUSE library'
# Of the shim, which zdb starts; hookd takes the same places from its configuration.
ENV HOOKD_SOCKET=/run/hookd/hook.sock HOOKD_SPOOL=/data/hookd/spool
VOLUME /data
LABEL org.opencontainers.image.title="qsfs" \
      org.opencontainers.image.description="zdbfs on zdb, stored by hookd in a zstor grid; on SIGTERM it ends when all is stored"
HEALTHCHECK --interval=30s --timeout=35s --start-period=60s --retries=3 \
    CMD hookd status >/dev/null && grep -q " ${QSFS_MOUNTPOINT:-/mnt} fuse" /proc/mounts || exit 1
# PID 1 drops a stop signal that it has neither a handler for nor blocked: blocked before Python starts, it waits.
ENTRYPOINT ["env", "--block-signal=TERM,INT", "qsfs-init"]

# ---- the side-task --------------------------------------------------------------------------------------------
FROM fetch AS rclone
# 1.74.3 or newer.
ARG RCLONE_VERSION=1.74.3
ARG RCLONE_SHA256
RUN fetch-component rclone \
        "https://downloads.rclone.org/v$RCLONE_VERSION/rclone-v$RCLONE_VERSION-linux-amd64.zip" "$RCLONE_SHA256"

FROM python AS storage
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends bash ca-certificates curl fuse3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
        /usr/share/doc/* /usr/share/man/*
COPY --from=rclone /components/rclone /usr/bin/
COPY rootfs/usr/bin/storage-init /usr/bin/
RUN rclone version && fusermount3 --version
LABEL org.opencontainers.image.title="hookd storage" \
      org.opencontainers.image.description="A remote mounted by rclone; on SIGTERM it ends when all writes are uploaded"
# Ready, and neither hanging nor refused: `hookd health` answers from the last bounded look, and touches no mount.
HEALTHCHECK --interval=10s --timeout=15s --start-period=60s --retries=3 \
    CMD hookd mount wait --timeout 5 && hookd health >/dev/null || exit 1
# Signals as above. Another command than `hookd mount` is run as it is: storage-init.
ENTRYPOINT ["env", "--block-signal=TERM,INT", "storage-init"]
