# Two images of Artifact Clinic: `docker build --target cpu .` (the default) and `docker build --target cuda .`
#
# PyTorch's packages for Linux include CUDA. For a small CPU image name the index of its CPU packages, which
# pytorch.org lists: --build-arg TORCH_INDEX=URL

FROM python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/clinic/bin:$PATH
RUN python -m venv /opt/clinic
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE app.py ./
COPY dataengine dataengine
COPY storage storage
COPY pipelines pipelines
COPY ui ui

FROM build AS build-cpu
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt '.[postgres,s3]'

FROM build AS build-cuda
RUN pip install -c constraints.txt '.[postgres,s3,quantized]'

FROM python:3.12-slim-bookworm AS runtime
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/clinic/bin:$PATH \
    HF_HOME=/cache/huggingface CLINIC_CACHE=/cache/clinic \
    HF_HUB_DISABLE_TELEMETRY=1 GRADIO_ANALYTICS_ENABLED=False
# The id that volumes of earlier images belong to.
RUN groupadd --gid 1000 clinic \
    && useradd --uid 1000 --gid 1000 --create-home clinic \
    && install --directory --owner=clinic --group=clinic /workspace /models /cache
WORKDIR /home/clinic
USER 1000:1000
VOLUME ["/workspace", "/models", "/cache"]
EXPOSE 7860
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
# Listening on all addresses needs accounts; the container says so when it has none.
CMD ["clinic", "--workspace", "/workspace", "app", "--host", "0.0.0.0"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/clinic /opt/clinic

FROM runtime AS cpu
COPY --from=build-cpu /opt/clinic /opt/clinic
