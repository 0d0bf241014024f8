# What a sandbox boots: the base image plus the zygote and its private libraries. Small and quick to make again.
ARG BASE
FROM ${BASE}
COPY runtime /opt/faas/runtime
RUN python3 -I -c 'import os; [os.makedirs(path, exist_ok=True) for path in ("/opt/faas/store", "/run/faas")]' \
    && python3 -I -m compileall -q --invalidation-mode unchecked-hash /opt/faas/runtime
ENV LANG=C.UTF-8 HOME=/tmp USER=sandbox LOGNAME=sandbox PATH=/usr/local/bin:/usr/bin:/bin
WORKDIR /tmp
ENTRYPOINT ["python3", "-I", "-S", "-B", "/opt/faas/runtime/zygote.py"]
