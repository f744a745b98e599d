// Seals and opens messages with AWS's Encryption SDK for JavaScript.
//
// The interop tests run this program as an independent peer of kms-envelope. It answers requests until the end of
// stdin, one JSON object per line, like tests/python/esdk.py. KEY is a key file, which is JSON:
// {"namespace": "...", "name": "...", "key": "<base64 of 16, 24 or 32 bytes>"}.
//
//     {"op": "seal", "key": KEY, "context": {}, "frame_len": 4096, "suite": "0478", "in": IN, "out": OUT}
//     {"op": "open", "key": KEY, "context": {}, "in": IN, "out": OUT}
//
// An answer is {"ok": true, "context": {...}, "suite": "0478"} or {"ok": false, "error": "..."}.

import { readFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import {
  CommitmentPolicy,
  RawAesKeyringNode,
  RawAesWrappingSuiteIdentifier,
  buildClient,
} from '@aws-crypto/client-node'

const WRAPPING_SUITES = {
  16: RawAesWrappingSuiteIdentifier.AES128_GCM_IV12_TAG16_NO_PADDING,
  24: RawAesWrappingSuiteIdentifier.AES192_GCM_IV12_TAG16_NO_PADDING,
  32: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
}

function keyring(path) {
  const { namespace, name, key } = JSON.parse(readFileSync(path, 'utf8'))
  // The SDK needs separate memory, not memory of Node's pool.
  const unencryptedMasterKey = new Uint8Array(Buffer.from(key, 'base64'))
  const wrappingSuite = WRAPPING_SUITES[unencryptedMasterKey.length]
  return new RawAesKeyringNode({
    keyNamespace: namespace,
    keyName: name,
    unencryptedMasterKey,
    wrappingSuite,
    // Without this option, the SDK sorts the context by the rules of a locale. No other SDK does that.
    utf8Sorting: true,
  })
}

/** A client with the strictest commitment policy under which the suite is allowed. */
function client(suite) {
  const commits = suite === 0x0478 || suite === 0x0578
  return buildClient(
    commits
      ? CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
      : CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
  )
}

async function answer(request) {
  const source = readFileSync(request.in)
  const context = request.context ?? {}
  if (request.op === 'seal') {
    const suiteId = parseInt(request.suite, 16)
    const { result, messageHeader } = await client(suiteId).encrypt(keyring(request.key), source, {
      suiteId,
      frameLength: request.frame_len,
      encryptionContext: context,
    })
    writeFileSync(request.out, result)
    return described(messageHeader)
  }
  const suite = source.readUInt16BE(source[0] === 2 ? 1 : 2)
  const { plaintext, messageHeader } = await client(suite).decrypt(keyring(request.key), source)
  for (const [name, value] of Object.entries(context)) {
    if (messageHeader.encryptionContext[name] !== value) throw new Error(`the context has another ${name}`)
  }
  writeFileSync(request.out, plaintext)
  return described(messageHeader)
}

function described(header) {
  return { context: { ...header.encryptionContext }, suite: header.suiteId.toString(16).padStart(4, '0') }
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply
  try {
    reply = { ok: true, ...(await answer(JSON.parse(line))) }
  } catch (error) {
    reply = { ok: false, error: String(error) }
  }
  console.log(JSON.stringify(reply))
}
