"""Measures AWS's SDK for Python: `python_sdk.py MIB ROUNDS`. Needs the packages of tests/python/requirements.txt."""

import os
import statistics
import sys
import time

import aws_encryption_sdk
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import AesWrappingAlg, CreateRawAesKeyringInput
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy

SMALL = 1024
SMALL_BATCH = 20
CONTEXT = {"tenant": "acme"}

client = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
keyring = AwsCryptographicMaterialProviders(MaterialProvidersConfig()).create_raw_aes_keyring(
    CreateRawAesKeyringInput(
        key_namespace="peers",
        key_name="key",
        wrapping_key=os.urandom(32),
        wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
    )
)


def timed(repeat, work):
    start = time.perf_counter()
    for _ in range(repeat):
        result = work()
    return (time.perf_counter() - start) / repeat, result


def round_trip(data, frame_len, repeat):
    """Returns the seconds to seal, the seconds to open, and the length of the message."""
    sealing, (sealed, _) = timed(
        repeat,
        lambda: client.encrypt(
            source=data,
            keyring=keyring,
            encryption_context=CONTEXT,
            algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
            frame_length=frame_len,
        ),
    )
    opening, (opened, _) = timed(repeat, lambda: client.decrypt(source=sealed, keyring=keyring))
    assert opened == data
    return sealing, opening, len(sealed)


def main():
    mib, rounds = map(int, sys.argv[1:])
    data = os.urandom(mib << 20)
    for frame_len in (4096, 65536):
        large = [round_trip(data, frame_len, 1) for _ in range(rounds)]
        small = [round_trip(data[:SMALL], frame_len, SMALL_BATCH) for _ in range(rounds)]
        median = lambda runs, column: statistics.median(run[column] for run in runs)
        rates = [len(data) / median(large, column) / 1e6 for column in (0, 1)]
        times = [median(small, column) * 1e6 for column in (0, 1)]
        print(
            f"| aws-encryption-sdk (Python), {frame_len >> 10} KiB frames | {rates[0]:.0f} | {rates[1]:.0f}"
            f" | {times[0]:.0f} | {times[1]:.0f} | {small[0][2] - SMALL} |",
            flush=True,
        )


main()
