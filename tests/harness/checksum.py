"""CRC32C, from its definition: the Castagnoli polynomial, bits reflected."""

POLYNOMIAL = 0x82F63B78


def _entry(value):
    for _ in range(8):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value


TABLE = [_entry(value) for value in range(256)]


def crc32c(content):
    value = 0xFFFFFFFF
    for byte in content:
        value = TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


# The check value that catalogues of CRCs give.
assert crc32c(b"123456789") == 0xE3069283
