# Scores files of your own, on a CPU or a GPU. Not run in CI, which has no Docker; what it starts is tested there.
#
#   docker build -t generated-or-real .
#   docker run --rm --network none -v "$PWD/holiday:/data:ro" -v "$PWD:/results" generated-or-real \
#       --dataset /data --output /results/scores.csv
#
# With an NVIDIA GPU and its container toolkit: add --gpus all. Single files: name them instead of --dataset.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1
COPY requirements.txt /opt/requirements.txt
RUN pip install --no-cache-dir -r /opt/requirements.txt

COPY script.py /opt/submission/script.py
COPY model /opt/submission/model
COPY weights /opt/submission/weights
COPY wheels /opt/submission/wheels

WORKDIR /results
ENTRYPOINT ["python", "/opt/submission/script.py"]
