// Package peers measures the TPM signers of other Go projects beside ours: the same TPM, the same
// digest, in turn within one run. It holds the forms of ours that are compared, the benchmarks, and
// a test that they compare like with like.
//
//	peer                                                commands per signature
//	go-tpm-tools, client.Key.GetSigner                  1  the key stays loaded
//	go-attestation, attest.Key.Private                  1  the key stays loaded
//	go.step.sm/crypto/tpm, TPM.GetSigner                4  loads the key for each signature
//	go-tpm-keyfiles, keyfile.NewTPMKeySigner            7  loads it, and salts two sessions
//	go-tpm-keyfiles, keyfile.NewTPMHandleSignerFromKey  1  the key stays loaded
//
// All of them build. Where a choice had to be made, it favours the peer:
//
//   - Each peer has one connection that stays open, without a lock or a copy in between. Step's
//     signer opens and closes the device for each signature; here that costs nothing.
//   - None of them verifies what the TPM made. We do, and our time includes it. The least that a
//     signer which verifies can take is measured beside them as well: a bare TPM2_Sign of prepared
//     bytes, and one verification.
//   - All but keyfile.NewTPMKeySigner authorize with an empty password, so that an attacker on the
//     bus to the TPM can change what is signed. Both forms of ours are compared: protected against
//     that, as by default, and plain, like the peers.
//
// tpm2-openssl is left out, because a process for each signature is no comparison.
package peers
