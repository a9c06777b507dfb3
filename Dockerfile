# The image for a cluster's nodes and for one-machine use. Works with and without a GPU: torch brings its own CUDA.
#   docker build -t hrnet-ray .
#   docker run --rm --shm-size=4g -v "$PWD/runs:/app/runs" hrnet-ray demo        (add --gpus all for a GPU)
FROM python:3.12-slim

# libgl1 and libglib2.0-0: `import cv2` needs them, and slim images leave them out.
# openssh-client and rsync: Ray's cluster launcher uses them when the head runs in a container. wget: KubeRay asks by it
# whether a node is well. gcc and libc6-dev: bf16 steps on CPUs and torch.compile have something compiled.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 openssh-client rsync wget \
        gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 ray && mkdir -p /app/runs /app/mlflow && chown -R ray:ray /app
WORKDIR /app

COPY pyproject.toml constraints.txt LICENSE NOTICE ./
COPY hrnet_ray ./hrnet_ray
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .
COPY experiments ./experiments

# The settings of cluster/env.yaml, and token authentication for every Ray process.
ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S=60 \
    RAY_TRAIN_COLLECTIVE_TIMEOUT_S=300 \
    OMP_WAIT_POLICY=PASSIVE \
    RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR=1 \
    RAY_TRAIN_NCCL_RAS_ACTION=fail \
    RAY_JOB_STOP_WAIT_TIME_S=30 \
    GOMP_SPINCOUNT=10000 \
    MLFLOW_HTTP_REQUEST_TIMEOUT=3 \
    MLFLOW_HTTP_REQUEST_MAX_RETRIES=1 \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    OPENCV_IO_MAX_IMAGE_PIXELS=67108864 \
    OPENCV_LOG_LEVEL=ERROR

USER ray
ENTRYPOINT ["hrnet-ray"]
CMD ["--help"]
