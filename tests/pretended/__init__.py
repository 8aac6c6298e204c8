"""A GPU that is not there: the CPU in its place, for the tests marked `gpu`.

Their numbers are those of the CPU, kernels are run by Triton's interpreter, and what CUDA refuses or leaves to the
caller is as on CUDA: tensors of two devices in one operation, pageable memory, waiting for the GPU, reading what a copy
has not brought yet. Nothing here takes effect but by the plugin:

    PYTHONPATH=.:tests pytest -p pretended.plugin -m gpu -o filterwarnings=default FILES    (tools/gpu.sh --pretend)
"""
