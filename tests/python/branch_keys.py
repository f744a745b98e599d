"""AWS's key store and hierarchical keyring, for esdk.py.

A store is JSON:
{"table": NAME, "table_region": REGION, "logical_name": NAME, "region": REGION, "kms": {CONFIGURATION: VALUE},
 "grant_tokens": [TOKEN, ...]}
"region" is that of the KMS client. The configuration is one of {"key": ARN}, {"multi_region_key": ARN},
{"discovery": null} and {"multi_region_discovery": REGION}.

Keys are not printed: answers have their SHA-256 digests.
"""

import hashlib

import boto3
from aws_cryptographic_material_providers.keystore import KeyStore
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig
from aws_cryptographic_material_providers.keystore.models import (
    CreateKeyInput,
    CreateKeyStoreInput,
    Discovery,
    GetActiveBranchKeyInput,
    GetBeaconKeyInput,
    GetBranchKeyVersionInput,
    KMSConfigurationDiscovery,
    KMSConfigurationKmsKeyArn,
    KMSConfigurationKmsMRKeyArn,
    KMSConfigurationMrDiscovery,
    MRDiscovery,
    VersionKeyInput,
)
from aws_cryptographic_material_providers.mpl.models import CreateAwsKmsHierarchicalKeyringInput, GetBranchKeyIdOutput
from aws_cryptographic_material_providers.mpl.references import IBranchKeyIdSupplier

KMS_CONFIGURATIONS = {
    "key": KMSConfigurationKmsKeyArn,
    "multi_region_key": KMSConfigurationKmsMRKeyArn,
    "discovery": lambda _: KMSConfigurationDiscovery(Discovery()),
    "multi_region_discovery": lambda region: KMSConfigurationMrDiscovery(MRDiscovery(region=region)),
}


def key_store(store):
    [(configuration, value)] = store["kms"].items()
    return KeyStore(
        KeyStoreConfig(
            ddb_table_name=store["table"],
            logical_key_store_name=store["logical_name"],
            kms_configuration=KMS_CONFIGURATIONS[configuration](value),
            grant_tokens=store["grant_tokens"],
            ddb_client=boto3.client("dynamodb", region_name=store["table_region"]),
            kms_client=boto3.client("kms", region_name=store["region"]),
        )
    )


class ByContext(IBranchKeyIdSupplier):
    """Returns the value of a pair of the encryption context as the branch key id."""

    def __init__(self, name):
        self.name = name

    def get_branch_key_id(self, param):
        return GetBranchKeyIdOutput(branch_key_id=param.encryption_context[self.name])


def hierarchical_keyring_input(entry):
    """Returns the input for a keyring with the branch key "branch_key", or the one that the pair "by_context" names."""
    if "by_context" in entry:
        choice = {"branch_key_id_supplier": ByContext(entry["by_context"])}
    else:
        choice = {"branch_key_id": entry["branch_key"]}
    return CreateAwsKmsHierarchicalKeyringInput(key_store=key_store(entry["store"]), ttl_seconds=60, **choice)


def create_table(store):
    return {"table_arn": store.create_key_store(CreateKeyStoreInput()).table_arn}


def create(store, branch_key=None, context=None):
    created = store.create_key(CreateKeyInput(branch_key_identifier=branch_key, encryption_context=context))
    return {"branch_key": created.branch_key_identifier}


def create_version(store, branch_key):
    store.version_key(VersionKeyInput(branch_key_identifier=branch_key))
    return {}


def active(store, branch_key):
    request = GetActiveBranchKeyInput(branch_key_identifier=branch_key)
    return branch_key_of(store.get_active_branch_key(request).branch_key_materials)


def version(store, branch_key, version):
    request = GetBranchKeyVersionInput(branch_key_identifier=branch_key, branch_key_version=version)
    return branch_key_of(store.get_branch_key_version(request).branch_key_materials)


def beacon(store, branch_key):
    request = GetBeaconKeyInput(branch_key_identifier=branch_key)
    key = store.get_beacon_key(request).beacon_key_materials
    return {"id": key.beacon_key_identifier, "digest": digest(key.beacon_key), "context": key.encryption_context}


def branch_key_of(key):
    return {
        "id": key.branch_key_identifier,
        "version": key.branch_key_version,
        "digest": digest(key.branch_key),
        "context": key.encryption_context,
    }


def digest(key):
    return hashlib.sha256(key).hexdigest()


OPERATIONS = {
    operation.__name__: operation for operation in (create_table, create, create_version, active, version, beacon)
}


def key_store_answer(request):
    """Performs an operation of the key store."""
    return OPERATIONS[request["operation"]](key_store(request["store"]), **request.get("arguments", {}))
