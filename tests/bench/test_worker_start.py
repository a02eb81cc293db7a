from bench.worker_start import Line, Sample, Start

LOADED = (
    "INFO worker.loading.load_report: loading took: tokenizer 0.25 s, weights 2.00 s, fingerprint 0.05 s, "
    "begun 3.00 s after the process; memory of the process 300 MiB before, at most 700 MiB until now"
)
START = Start(
    samples=[
        Sample(1.0, anonymous=900, mapped=10),
        Sample(2.9, anonymous=200, mapped=50),
        Sample(4.0, anonymous=650, mapped=55),
        Sample(5.3, anonymous=600, mapped=60),
        Sample(7.0, anonymous=800, mapped=90),
    ],
    lines=[
        Line(5.31, LOADED),
        Line(6.0, "INFO worker.runners.native.assembly: the whole model runs in C"),
        Line(8.5, "textserve-worker ready address=127.0.0.1:1 model=m incarnation=0"),
    ],
)


def test_the_phases_of_a_start_add_up_to_it() -> None:
    assert START.phases == {
        "imports and kernels": 3.0,
        "tokenizer": 0.25,
        "weights": 2.0,
        "fingerprint": 0.05,
        "memory": 6.0 - 5.31,
        "warm-up": 2.5,
    }
    assert abs(sum(START.phases.values()) - START.seconds) < 0.02


def test_the_peak_of_a_load_is_what_came_between_its_begin_and_its_end() -> None:
    assert (START.load_peak.anonymous, START.load_peak.mapped) == (450, 10)
