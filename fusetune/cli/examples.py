"""Three ways to call each command, as its help shows them; `{problem}` stands for the options of a first problem."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "sweep": (
        ("fusetune sweep {problem}", "one size, on the GPU here"),
        ("fusetune sweep {problem} --dtype bf16 --target a100", "predict for a GPU that is not here"),
        ("fusetune sweep --op vector_add.py:SPEC --size n=16777216", "an op of your own"),
    ),
    "tune": (
        ("fusetune tune train.py --epochs 1", "the kernels of a script, called as ever"),
        ("fusetune tune --kernel '*norm*' -m pytest tests/test_norm.py::test_a", "some kernels of one test"),
        ("fusetune tune train.py --diff", "what would change in the source"),
    ),
    "run": (
        ("fusetune run train.py --epochs 1", "with the configs that were kept"),
        ("fusetune run --report served.json -m package.train", "and what was applied as a file"),
        ("fusetune run --on-miss error serve.py", "end where a launch has no entry"),
    ),
    "report": (
        ("fusetune report", "your problems, one line each"),
        ("fusetune report --gpu h200 --dtype bf16 --since 7d", "some of them"),
        ("fusetune report --run latest", "what the newest run tried"),
    ),
    "compare": (
        ("fusetune compare old.yaml new.yaml", "two files of configs"),
        ("fusetune compare 20261123T101500-3f9a latest", "two runs"),
        ("fusetune compare old.yaml new.yaml --json", "for a script"),
    ),
    "export": (
        ("fusetune export {problem}", "the module on stdout"),
        ("fusetune export {problem} --target h200 -o kernel.py", "for another GPU, to a file"),
        ("fusetune export {problem} --autotune", "with a short autotune list"),
    ),
    "capture": (
        ("fusetune capture train.py --epochs 1", "the kernels of a script and their knobs"),
        ("fusetune capture --explain --kernel '*norm*' train.py", "why each value may vary or not"),
        ("fusetune capture --keep model.py --reference reference.py", "to be replayed without the program"),
    ),
    "gate": (
        ("fusetune gate --static configs", "by compiling alone, without a GPU"),
        ("fusetune gate --live configs --junit gate.xml", "timed on the GPU here, for CI"),
        ("fusetune gate --static --against main", "what this branch changes"),
    ),
    "inspect": (
        ("fusetune inspect {problem} --target a100", "BASELINE for one GPU"),
        ("fusetune inspect {problem} --all --top 10", "the best of the space, and why others fell"),
        ("fusetune inspect {problem} --ptx", "the code of its kernels"),
    ),
    "profile": (
        ("fusetune profile {problem}", "to metrics.json"),
        ("fusetune profile {problem} -o before.json", "to another file"),
        ("fusetune profile {problem} --print-command", "the ncu command alone"),
    ),
    "targets": (
        ("fusetune targets", "all of them"),
        ("fusetune targets rtx4090", "the figures of one, with their sources"),
        ("fusetune targets --json", "for a script"),
    ),
    "warmup": (
        ("fusetune warmup", "all that the files hold for this GPU"),
        ("fusetune warmup {problem}", "one problem"),
        ("fusetune warmup configs/nvidia-h200", "what one folder holds"),
    ),
    "worker": (
        ("fusetune worker tcp://10.0.0.1:8786", "all GPUs of this machine"),
        ("fusetune worker tcp://10.0.0.1:8786 --gpus 0,1", "two of them"),
        ("fusetune worker tcp://10.0.0.1:8786 --leave-after 600", "not without a scheduler"),
    ),
    "doctor": (
        ("fusetune doctor", "the machine alone"),
        ("fusetune doctor --kernels", "and its kernels: minutes, and a file to be shared"),
        ("fusetune doctor --json > doctor.json", "the findings for a script"),
    ),
    "env": (
        ("fusetune env", "one screen"),
        ("fusetune env --json", "for a script"),
        ("fusetune env > report.txt", "to be attached to a bug report"),
    ),
}
