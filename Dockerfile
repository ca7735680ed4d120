FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements/build.txt requirements/runtime.txt requirements/
# Wheels only, so that no compiler is needed. One pure Python package is built from source; setuptools builds it and is
# removed again.
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --quiet --no-compile --no-deps --require-hashes --only-binary=:all: -r requirements/build.txt \
 && pip --python /venv/bin/python install --quiet --no-compile --no-deps --require-hashes --only-binary=:all: \
        --no-binary=openapi-ui-bundles --no-build-isolation -r requirements/runtime.txt \
 && pip --python /venv/bin/python uninstall --quiet --yes setuptools
COPY service service
COPY sql sql
COPY migrations migrations
# Unchecked, because the final image contains exactly these sources, and its user cannot write newer bytecode. The bytecode
# that pip compiles names the time of its source, so that no two images would be the same.
RUN python -m compileall -q --invalidation-mode unchecked-hash service sql /venv/lib

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="enrollment-service" \
      org.opencontainers.image.description="The system of record for students, courses and enrollments." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
RUN groupadd --system --gid 10001 enrollment \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin enrollment
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8080
COPY --from=build /venv /venv
COPY --from=build /app/service /app/service
COPY --from=build /app/sql /app/sql
COPY --from=build /app/migrations /app/migrations
WORKDIR /app
# A number, because runAsNonRoot of Kubernetes can't resolve a name.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8080), timeout=2); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "service"]
