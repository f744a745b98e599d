"""Runs moto's server with what its KMS lacks. The arguments are those of moto_server.

moto has no DeriveSharedSecret, its GetPublicKey answers with the bare key id instead of the key's ARN, and its Decrypt
uses keys that are disabled.
"""

import base64
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from moto.core.exceptions import JsonRESTError
from moto.kms.models import KmsBackend
from moto.kms.responses import KmsResponse
from moto.server import main

decrypt = KmsBackend.decrypt
get_public_key = KmsResponse.get_public_key


def get_public_key_with_arn(self):
    key = self.kms_backend.describe_key(self._get_param("KeyId"))
    return json.dumps({**json.loads(get_public_key(self)), "KeyId": key.arn})


def derive_shared_secret(self):
    key = self.kms_backend.describe_key(self._get_param("KeyId"))
    peer = load_der_public_key(base64.b64decode(self._get_param("PublicKey")))
    secret = key.private_key.private_key.exchange(ec.ECDH(), peer)
    algorithm = self._get_param("KeyAgreementAlgorithm")
    answer = {"KeyId": key.arn, "KeyAgreementAlgorithm": algorithm, "SharedSecret": base64.b64encode(secret).decode()}
    return json.dumps(answer)


def decrypt_unless_disabled(self, *arguments, **named):
    plaintext, arn = decrypt(self, *arguments, **named)
    if not self.describe_key(arn).enabled:
        raise JsonRESTError("DisabledException", f"{arn} is disabled.")
    return plaintext, arn


KmsBackend.decrypt = decrypt_unless_disabled
KmsResponse.get_public_key = get_public_key_with_arn
KmsResponse.derive_shared_secret = derive_shared_secret

if __name__ == "__main__":
    main()
