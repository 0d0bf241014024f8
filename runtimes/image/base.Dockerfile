# The interpreter the sandboxes run, on top of ROOTFS: either a registry's python:3.11-slim or our own from Debian packages.
# The root of a sandbox is read-only, so everything is compiled now; "unchecked-hash" spares each import a stat of its source.
ARG ROOTFS
FROM ${ROOTFS}
RUN /sbin/ldconfig && python3 -I -m compileall -q -j 0 --invalidation-mode unchecked-hash "$(python3 -I -c 'import os; print(os.path.dirname(os.__file__))')"
