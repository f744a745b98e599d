"""Runs moto's server with what its KMS lacks for key agreement. The arguments are those of moto_server.

moto has no DeriveSharedSecret, and its GetPublicKey answers with the bare key id instead of the key's ARN.
"""

import base64
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from moto.kms.responses import KmsResponse
from moto.server import main

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


KmsResponse.get_public_key = get_public_key_with_arn
KmsResponse.derive_shared_secret = derive_shared_secret

if __name__ == "__main__":
    main()
