"""Random programs that try to break the shortcuts of the kernel, compared in float64.

seed -> choices.Program (integers) -> writer.Writer with the operations in ops/ -> Source (text)
     -> check.check (the kernels of `ntk_train` against tests/oracle.py) -> shrink.shrink

python -m tests.programs --count 10000 --jobs 16 --seed 0
"""
