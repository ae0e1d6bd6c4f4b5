# Image of the builder: `docker build -f docker/build.Dockerfile -t stcorpus-build .` from the root.
# The install step is the README's, with the extras that building needs.
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/stcorpus
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY stbuild stbuild
COPY sttrain sttrain
RUN python3 -m venv .venv && .venv/bin/pip install -c constraints.txt '.[build,plots]'
ENV PATH=/opt/stcorpus/.venv/bin:$PATH

RUN useradd --create-home --uid 1000 worker && install -d -o worker -g worker /data
USER 1000
WORKDIR /data
ENTRYPOINT ["stbuild"]
CMD ["--help"]
