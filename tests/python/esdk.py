"""Seals and opens messages with AWS's Encryption SDK for Python.

The interop tests run this program as an independent peer of kms-envelope:

    esdk.py seal --key KEY [-c NAME=VALUE]... [--frame-len N] [--suite HEX] IN OUT
    esdk.py open --key KEY [-c NAME=VALUE]... IN OUT
    esdk.py serve

KEY is the ARN of a KMS key, or the path of a key file, which is JSON:
{"namespace": "...", "name": "...", "key": "<base64 of 16, 24 or 32 bytes>"}, or, for RSA,
{"namespace": "...", "name": "...", "padding": "OAEP_SHA256_MGF1", "public_key": PEM, "private_key": PEM}, or, for
the other keyrings of AWS KMS, one of
{"kms": "mrk", "key_arn": ARN}, {"kms": "discovery", "region": REGION, "account": ACCOUNT},
{"kms": "rsa", "key_arn": ARN, "algorithm": "RSAES_OAEP_SHA_256", "public_key": PEM} and
{"kms": "ecdh", "key_arn": ARN, "curve": "ECC_NIST_P256", "recipient": <base64 of DER>}. For ECDH, the recipient's
public key is optional: without it, the keyring only opens. For branch keys, it is
{"kms": "hierarchical", "store": STORE, "branch_key": ID}, or "by_context": NAME instead of "branch_key": see
branch_keys.py.
A KMS key's region is the one in its ARN; the endpoint and the credentials come
from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).

The frame length must be a multiple of 128; 0 writes a non-framed message.
The context for `open` is the expected one. If the message stores a pair of that
name, it must be equal. Any other pair counts as authenticated but not stored.

`seal` and `open` print {"context": {...}, "suite": "0478"}, from the message's
header. An error is one line on stderr and exit code 1 (2 for wrong usage).

`serve` answers requests until the end of stdin, one JSON object per line, because
importing the SDK is slow. "context", "frame_len" and "suite" are optional:

    {"op": "seal", "key": KEY, "context": {}, "frame_len": 4096, "suite": "0478", "in": IN, "out": OUT}
    {"op": "open", "key": KEY, "context": {}, "in": IN, "out": OUT}
    {"op": "key_store", "operation": NAME, "store": STORE, "arguments": {}}

An answer is {"ok": true, "context": {...}, "suite": "0478"} or
{"ok": false, "error": "..."}. That of "key_store" has the results of the operation, a function in branch_keys.py.
"""

import argparse
import base64
import functools
import io
import json
import logging
import sys
from pathlib import Path

import boto3
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    AesWrappingAlg,
    CreateAwsKmsDiscoveryKeyringInput,
    CreateAwsKmsEcdhKeyringInput,
    CreateAwsKmsKeyringInput,
    CreateAwsKmsMrkKeyringInput,
    CreateAwsKmsRsaKeyringInput,
    CreateRawAesKeyringInput,
    CreateRawRsaKeyringInput,
    DiscoveryFilter,
    KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey,
    KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery,
    KmsPrivateKeyToStaticPublicKeyInput,
    KmsPublicKeyDiscoveryInput,
    PaddingScheme,
)
from aws_encryption_sdk import CommitmentPolicy, EncryptionSDKClient
from aws_encryption_sdk.identifiers import AlgorithmSuite

from branch_keys import hierarchical_keyring_input, key_store_answer

DEFAULT_FRAME_LEN = 4096
DEFAULT_SUITE = "0478"
WRAPPING_ALGS = {
    16: AesWrappingAlg.ALG_AES128_GCM_IV12_TAG16,
    24: AesWrappingAlg.ALG_AES192_GCM_IV12_TAG16,
    32: AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
}

# The SDK logs a traceback for each message that it refuses.
logging.disable()

providers = AwsCryptographicMaterialProviders(MaterialProvidersConfig())


def keyring(key):
    """Returns the keyring for the ARN of a KMS key or for a key file."""
    if key.startswith("arn:"):
        return providers.create_aws_kms_keyring(
            CreateAwsKmsKeyringInput(kms_key_id=key, kms_client=kms_client(region=key.split(":")[3]))
        )
    entry = json.loads(Path(key).read_text("utf-8"))
    if "kms" in entry:
        return kms_keyring(entry)
    if "padding" in entry:
        return providers.create_raw_rsa_keyring(
            CreateRawRsaKeyringInput(
                key_namespace=entry["namespace"],
                key_name=entry["name"],
                padding_scheme=getattr(PaddingScheme, entry["padding"]),
                public_key=entry["public_key"].encode(),
                private_key=entry["private_key"].encode(),
            )
        )
    wrapping_key = base64.b64decode(entry["key"], validate=True)
    if len(wrapping_key) not in WRAPPING_ALGS:
        raise ValueError(f"an AES key has 16, 24 or 32 bytes, not {len(wrapping_key)}")
    return providers.create_raw_aes_keyring(
        CreateRawAesKeyringInput(
            key_namespace=entry["namespace"],
            key_name=entry["name"],
            wrapping_key=wrapping_key,
            wrapping_alg=WRAPPING_ALGS[len(wrapping_key)],
        )
    )


def kms_keyring(entry):
    """Returns a keyring of AWS KMS that needs more than a key ARN."""
    if entry["kms"] == "discovery":
        discovery_filter = DiscoveryFilter(account_ids=[entry["account"]], partition="aws")
        return providers.create_aws_kms_discovery_keyring(
            CreateAwsKmsDiscoveryKeyringInput(
                kms_client=kms_client(region=entry["region"]), discovery_filter=discovery_filter
            )
        )
    if entry["kms"] == "hierarchical":
        return providers.create_aws_kms_hierarchical_keyring(hierarchical_keyring_input(entry))
    arn = entry["key_arn"]
    client = kms_client(region=arn.split(":")[3])
    if entry["kms"] == "mrk":
        return providers.create_aws_kms_mrk_keyring(CreateAwsKmsMrkKeyringInput(kms_key_id=arn, kms_client=client))
    if entry["kms"] == "rsa":
        return providers.create_aws_kms_rsa_keyring(
            CreateAwsKmsRsaKeyringInput(
                kms_key_id=arn,
                kms_client=client,
                encryption_algorithm=entry["algorithm"],
                public_key=entry["public_key"].encode(),
            )
        )
    if entry["kms"] == "ecdh":
        return providers.create_aws_kms_ecdh_keyring(
            CreateAwsKmsEcdhKeyringInput(
                key_agreement_scheme=key_agreement_scheme(arn, entry.get("recipient")),
                curve_spec=entry["curve"],
                kms_client=client,
            )
        )
    raise ValueError(f"unknown keyring {entry['kms']!r}")


def key_agreement_scheme(arn, recipient):
    """Returns the scheme of a KMS key, which is the recipient's own key if no other recipient is given."""
    if recipient is None:
        return KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery(
            KmsPublicKeyDiscoveryInput(recipient_kms_identifier=arn)
        )
    return KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey(
        KmsPrivateKeyToStaticPublicKeyInput(
            sender_kms_identifier=arn, recipient_public_key=base64.b64decode(recipient, validate=True)
        )
    )


@functools.cache
def kms_client(region):
    return boto3.client("kms", region_name=region)


def client(suite):
    """Returns a client with the strictest commitment policy that allows `suite`."""
    if suite in (0x0478, 0x0578):
        return EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
    return EncryptionSDKClient(commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)


def suite_in(message):
    """Returns the suite id from the first bytes of a message, or 0 if the message is too short."""
    start = 1 if message[:1] == b"\x02" else 2
    return int.from_bytes(message[start : start + 2], "big")


def seal(plaintext, context, frame_len=DEFAULT_FRAME_LEN, suite=DEFAULT_SUITE, **materials):
    """Seals with `materials`: a `keyring` or a `materials_manager`. Returns the message and its header."""
    suite = int(suite, 16)
    if suite not in {known.algorithm_id for known in AlgorithmSuite}:
        raise ValueError(f"unknown suite {suite:04x}")
    return client(suite).encrypt(
        source=plaintext,
        encryption_context=context,
        frame_length=frame_len,
        algorithm=AlgorithmSuite.get_by_id(suite),
        **materials,
    )


def unseal(message, context, **materials):
    """Opens with `materials`, like `seal`. Returns the plaintext and the message's header."""
    source = io.BytesIO(message)
    plaintext, header = client(suite_in(message)).decrypt(source=source, encryption_context=context, **materials)
    if source.read(1):
        raise ValueError("trailing bytes after the end of the message")  # The SDK does not check this.
    return plaintext, header


def answer(request):
    """Performs one request and returns the answer."""
    if request["op"] == "key_store":
        return key_store_answer(request)
    context = request.get("context", {})
    source = Path(request["in"]).read_bytes()
    if request["op"] == "seal":
        options = {name: request[name] for name in ("frame_len", "suite") if name in request}
        output, header = seal(source, context, keyring=keyring(request["key"]), **options)
    elif request["op"] == "open":
        output, header = unseal(source, context, keyring=keyring(request["key"]))
    else:
        raise ValueError(f"unknown op {request['op']!r}")
    Path(request["out"]).write_bytes(output)
    return {"context": header.encryption_context, "suite": f"{header.algorithm.algorithm_id:04x}"}


def one_line(error):
    """Returns the error's text and, if a keyring tried several encrypted data keys, the errors of each."""
    cause = error.args[0] if error.args else None
    return " ".join(f"{type(error).__name__}: {error} {getattr(cause, 'list', '')}".split())


def serve():
    for line in sys.stdin.buffer:
        try:
            reply = {"ok": True, **answer(json.loads(line))}
        except Exception as error:
            reply = {"ok": False, "error": one_line(error)}
        print(json.dumps(reply), flush=True)


def context_pair(argument):
    name, equals, value = argument.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"not NAME=VALUE: {argument}")
    return name, value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ops = parser.add_subparsers(dest="op", required=True)
    ops.add_parser("serve", help="answer JSON requests, one a line on stdin")
    for op, text in (("seal", "write a message"), ("open", "read a message")):
        command = ops.add_parser(op, help=text)
        command.add_argument("--key", required=True, help="a key file, or the ARN of a KMS key")
        command.add_argument(
            "-c", dest="context", metavar="NAME=VALUE", type=context_pair, action="append", default=[],
            help="a pair of the encryption context",
        )
        if op == "seal":
            command.add_argument("--frame-len", type=int, default=DEFAULT_FRAME_LEN, help="0 for non-framed")
            command.add_argument("--suite", default=DEFAULT_SUITE, help="a suite id in hex")
        command.add_argument("in", metavar="IN")
        command.add_argument("out", metavar="OUT")
    return vars(parser.parse_args())


def main():
    request = arguments()
    if request["op"] == "serve":
        return serve()
    request["context"] = dict(request["context"])
    try:
        print(json.dumps(answer(request)))
    except Exception as error:
        sys.exit(one_line(error))


if __name__ == "__main__":
    main()
