"""Numbers from the admin page of a process."""


def counter(process, name, **labels):
    """The sum of a counter over all series that have these labels; 0 where there is none yet."""
    status, body = process.admin_get("/metrics")
    assert status == 200
    total = 0.0
    for line in body.splitlines():
        series, _, value = line.rpartition(" ")
        if series.split("{", 1)[0] != name:
            continue
        if all(f'{label}="{wanted}"' in series for label, wanted in labels.items()):
            total += float(value)
    return total
