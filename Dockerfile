# The HTTP example on an NVIDIA GPU, or on a CPU without --gpus:
#
#   docker build -t l2c_rt .
#   docker run --gpus all -p 8000:8000 -v l2c_rt-cache:/cache l2c_rt
#   curl 'localhost:8000/digit/7?seed=3'
#
# The wheels of torch bring CUDA; from the base come the variables by which the driver is mounted.
FROM nvidia/cuda:13.0.0-base-ubuntu24.04 AS base
# Triton compiles the functions that start its kernels, with gcc and Python's headers.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

FROM base AS wheel
RUN apt-get update && apt-get install --yes --no-install-recommends g++
COPY . /source
RUN pip wheel --no-deps --wheel-dir /wheels /source

FROM base
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[gpu,serving]" fastapi uvicorn
COPY examples /app
# What was measured about this machine is kept in a volume, or the next container measures it again.
ENV XDG_CACHE_HOME=/cache/xdg TRITON_CACHE_DIR=/cache/triton
RUN useradd --create-home serving && install --directory --owner serving /cache
USER serving
VOLUME /cache
EXPOSE 8000
# A machine that runs kernels wrong serves nothing: doctor is asked once, before the first request,
# since its measurements would get in the way of later ones.
ENTRYPOINT ["/bin/sh", "-c", "l2c-rt doctor && exec \"$@\"", "--"]
CMD ["uvicorn", "--app-dir", "/app", "--host", "0.0.0.0", "fastapi_app:app"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m CMD ["python3", "-c", \
    "from urllib.request import urlopen; urlopen('http://localhost:8000/health', timeout=4)"]
