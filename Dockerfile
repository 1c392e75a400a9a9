# The project on a CPU. Build it in the root of a checkout and run the demo:
#     docker build -t rllava-jax .
#     docker run --rm -v "$PWD/runs:/rllava_jax/runs" rllava-jax            # make demo; the report appears in runs/demo
#     docker run --rm rllava-jax .venv/bin/rllava --help
# Machines with TPUs and GPUs are served by launch/ (launch/gke/Dockerfile builds their image).
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /rllava_jax
# The environment first: it changes less often than the code.
COPY pyproject.toml constraints.txt README.md LICENSE Makefile ./
COPY rllava_jax/__init__.py rllava_jax/
COPY data_pipelines/__init__.py data_pipelines/
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir -c constraints.txt -e . && touch .venv/.created
COPY . .
RUN make .venv/.runtime-installed
CMD ["make", "demo"]
