# syntax=docker/dockerfile:1
# One image for web, worker, beat and discovery; docker-compose.yml says which is which.

FROM node:24-bookworm-slim AS frontend
WORKDIR /src/frontend
COPY frontend/package.json frontend/package-lock.json frontend/.npmrc ./
RUN npm install --no-save --no-audit --no-fund
COPY frontend/ ./
RUN npm run build

FROM python:3.11-slim-bookworm AS agent
WORKDIR /src
RUN pip install --no-cache-dir uv
COPY requirements/agent.lock requirements/agent.lock
COPY scripts/agent/ scripts/agent/
COPY kubespan/ kubespan/
RUN python scripts/agent/build.py --cache /tmp/agent --to build/agent

FROM python:3.11-slim-bookworm AS packages
COPY requirements/console.lock /requirements.lock
RUN pip install --no-cache-dir uv && python -m venv --without-pip /venv \
    && VIRTUAL_ENV=/venv uv pip install --no-cache --require-hashes -r /requirements.lock

FROM python:3.11-slim-bookworm
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATIC_ROOT=/srv/static LOG_FORMAT=json \
    MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=65536
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent kubespan
WORKDIR /srv/console
COPY --from=packages /venv /venv
COPY manage.py pyproject.toml LICENSE ./
COPY kubespan/ kubespan/
COPY kubespan_web/ kubespan_web/
COPY templates/ templates/
COPY nodes/ nodes/
COPY --from=frontend /src/nodes/static/ nodes/static/
COPY --from=agent /src/build/agent/ build/agent/
# Collecting static files reads the settings, which want secrets; these are thrown away with the command.
RUN KUBESPAN_SECRET_KEY=$(head -c 60 /dev/urandom | base64 -w0) \
    KUBESPAN_KEYS=build:$(head -c 32 /dev/urandom | base64 | tr '+/' '-_') \
    REDIS_URL=redis://127.0.0.1/0 DATABASE_URL=sqlite:////tmp/unused.sqlite3 \
    python manage.py collectstatic --no-input --verbosity 0 \
    && python -m compileall -q kubespan kubespan_web nodes
USER kubespan
EXPOSE 8000
CMD ["uvicorn", "kubespan_web.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--lifespan", "on", \
     "--no-proxy-headers", "--no-server-header", "--no-access-log", "--timeout-graceful-shutdown", "5", \
     "--ws", "websockets-sansio", "--ws-per-message-deflate", "false", \
     "--ws-max-size", "4194304"]
