// Package engine is the binding key and everything that obtains tokens with it: the source of
// attestation tokens, the IMDS client, the binding certificates, the keys of applications and the
// acquirer.
//
// There are two users. The daemon runs an engine on the key in use ([OpenKey], [New],
// [Engine.Run]); a rotation of the binding key makes one on the next key, obtains a token for each
// identity with it, and closes it again ([KeyIn], [New]). Neither builds any part of it by itself.
//
//	configuration --Resolve--> Plan ----+
//	                                    New --> Engine --> tokens
//	state directory --OpenKey--> Key ---+
//
// What always holds:
//   - An engine owns its key and the key's TPM: [Engine.Close] closes what [New] built in reverse
//     order, the key and the TPM last. If New fails, it has closed them.
//   - Neither IMDS nor Entra nor the attestation service has to answer for an engine to be built.
//   - A key that lacks a protection that the configuration asks for is not used.
//   - The hosts and authorities that the agent trusts change in one place, [Engine.UseTrust].
package engine
