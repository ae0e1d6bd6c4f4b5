# Image of the trainer: `docker build -f docker/train.Dockerfile -t stcorpus-train .` from the root.
# The install step is the README's, with the extras that training needs.
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/stcorpus
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY stbuild stbuild
COPY sttrain sttrain
RUN python3 -m venv .venv && .venv/bin/pip install -c constraints.txt '.[train,plots]'
ENV PATH=/opt/stcorpus/.venv/bin:$PATH

RUN useradd --create-home --uid 1000 worker && install -d -o worker -g worker /data
USER 1000
WORKDIR /data
ENTRYPOINT ["sttrain"]
CMD ["--help"]
