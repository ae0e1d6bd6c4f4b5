"""Starts processes of both programs that need not import anything again; see the other starter."""

import os
from importlib import import_module

import stbuild.cli
from tests.faults.variants import FAULTS
from tests.stbuild.warm_jail import fork_jails
from tests.sttrain.broken import VARIANTS
from tests.sttrain.starter import PROGRAMS, serve

PRELOADED = """
anndata matplotlib.backends.backend_agg matplotlib.figure mlcroissant pyarrow.dataset
sklearn.cluster sklearn.decomposition sklearn.linear_model sklearn.mixture sklearn.neighbors
torch._dynamo torch.onnx torch.utils.tensorboard
stbuild.build.building stbuild.grid.compact stbuild.build.extension stbuild.publish.release
stbuild.reading.sections stbuild.sources.h5ad sttrain.bench.run sttrain.embed.files
sttrain.embed.spots sttrain.judge.cluster sttrain.judge.probes sttrain.judge.reconstruct
sttrain.release.encoder sttrain.train.curves sttrain.train.run
"""
"""What the commands import when they need it; one second and more each."""

if __name__ == "__main__":
    for name in PRELOADED.split():
        import_module(name)
    fork_jails()
    PROGRAMS["stbuild"] = stbuild.cli.main
    VARIANTS.update(FAULTS)
    serve()
    os._exit(0)  # taking down all those libraries takes seconds
