from vitloom.sim.bench_boards import sdram_text, uart_text

UART = {"images": 10, "equal": 9, "broken": 1000, "answered": 1, "cut": 40, "retries": 41, "uploaded": 5, "cycles": [7, 8]}
RUN = {"network": "net", "preset": "l8", "ideal": 90, "estimate": 99, "cycles": 100, "clock_hz": 80e6, "values_compared": 5, "agreed": True}


def test_the_tables_say_what_was_required_and_measured():
    text = uart_text({"uart": UART})
    assert "| images with the golden model's logits | 10 of 10 | 9 of 10 |" in text
    assert "| broken frames that were answered | 0 of 1000 | 1 of 1000 |" in text
    text = sdram_text({"sdram-deit_tiny-l8": RUN | {"layers": ["b.0"]}, "sdram-deit_tiny-l16": RUN | {"layers": [], "agreed": False}})
    assert text.splitlines()[2:] == [
        "| net, l8 | b.0 | 90 | 99 | 100 |  | 5, all equal |",
        "| net, l8 | all | 90 | 99 | 100 | 800000.0 | 5, DIFFERENT |",
    ]
    assert "images/s at 80 MHz" in text
