package attest_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

func keyForgeries() map[string][]forgery {
	attributes := func(a uint32) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.KeyPublic = at.Public(x.Key, a, nil) }
	}
	certify := func(change func(*at.Statement)) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.ChangeCertify = change }
	}
	otherKey := func(x *trial) []byte { return at.Public(&x.w.keys.Other.PublicKey, at.BindingKeyAttributes, nil) }
	return map[string][]forgery{
		attest.CheckKeyPublic: {
			{name: "not fixed to the TPM", forge: attributes(at.BindingKeyAttributes &^ (1 << 1))},
			{name: "not fixed to its parent", forge: attributes(at.BindingKeyAttributes &^ (1 << 4))},
			{name: "imported from outside", forge: attributes(at.BindingKeyAttributes &^ (1 << 5))},
			{name: "not for signing", forge: attributes(at.BindingKeyAttributes &^ (1 << 18))},
			{name: "restricted, as an attestation key is", forge: attributes(at.BindingKeyAttributes | 1<<16)},
			{name: "also for decryption", forge: attributes(at.BindingKeyAttributes | 1<<17)},
			{name: "duplicated under encryption", forge: attributes(at.BindingKeyAttributes | 1<<11)},
			{name: "administered by policy", forge: attributes(at.BindingKeyAttributes | 1<<7)},
			{name: "gone at the next start", forge: attributes(at.BindingKeyAttributes | 1<<2)},
			{name: "signs X.509 by itself", forge: attributes(at.BindingKeyAttributes | 1<<19)},
			{name: "an unknown policy", forge: func(_ *testing.T, x *trial) {
				x.KeyPublic = at.Public(x.Key, at.BindingKeyAttributes, make([]byte, 32))
			}},
			{name: "bytes after the public area", forge: func(_ *testing.T, x *trial) { x.KeyPublic = append(x.KeyPublic, 0) }},
			{name: "SHA-1 Names", forge: func(_ *testing.T, x *trial) { x.KeyPublic[3] = 0x04 }},
			{name: "a fixed scheme", forge: func(_ *testing.T, x *trial) {
				x.KeyPublic = append(append(bytes.Clone(x.KeyPublic[:12]), 0x00, 0x14, 0x00, 0x0B), x.KeyPublic[14:]...)
			}},
			{name: "exponent 3", forge: func(_ *testing.T, x *trial) { x.KeyPublic[19] = 3 }},
			{name: "an even modulus", forge: func(_ *testing.T, x *trial) { x.KeyPublic[len(x.KeyPublic)-1] &^= 1 }},
		},
		attest.CheckKeyCertifyStructure: {
			{name: "signed, but not by a TPM", forge: certify(func(s *at.Statement) { s.Magic = 0x00544347 })},
			{name: "a quote in its place", forge: certify(func(s *at.Statement) { s.Type = 0x8018 })},
			{name: "bytes after the statement", forge: certify(func(s *at.Statement) { s.Body = append(s.Body, 0) })},
			{name: "safe is neither yes nor no", forge: certify(func(s *at.Statement) { s.Safe = 2 })},
			{name: "cut off", forge: certify(func(s *at.Statement) { s.Body = s.Body[:20] })},
		},
		attest.CheckKeyCertifySignature: {
			{name: "by another key", forge: func(t *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					other := *x.Machine
					other.AK = x.w.keys.Other
					e.CertifySignature = other.Sign(t, e.Certify)
				}
			}},
			{name: "of another scheme", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.CertifySignature[1] = 0x16 }
			}},
			{name: "missing", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.CertifySignature = nil }
			}},
			{name: "statement changed after signing", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.Certify[76+7]++ } // the clock's last byte
			}},
		},
		attest.CheckKeyCertifySigner: {
			{name: "the attestation key under the owner", forge: func(_ *testing.T, x *trial) {
				area := attest.AKPublicArea(x.AK.N.Bytes())
				x.ChangeCertify = func(s *at.Statement) { s.Signer = at.Name(at.Handle(at.Owner), at.Name(area)) }
			}},
		},
		attest.CheckKeyCertifyName: {
			{name: "certify of another key", forge: func(_ *testing.T, x *trial) {
				name := at.Name(otherKey(x))
				x.ChangeCertify = func(s *at.Statement) {
					s.Body = append(at.Sized(name), at.Sized(at.Name(at.Handle(at.Owner), name))...)
				}
			}},
			{name: "public area with friendlier attributes", forge: func(_ *testing.T, x *trial) {
				real := at.Name(at.Public(x.Key, at.BindingKeyAttributes&^(1<<1), nil))
				x.ChangeCertify = func(s *at.Statement) {
					s.Body = append(at.Sized(real), at.Sized(at.Name(at.Handle(at.Owner), real))...)
				}
			}},
		},
		attest.CheckKeyCertifyLocation: {
			{name: "a primary of the NULL hierarchy", forge: func(_ *testing.T, x *trial) {
				name := at.Name(x.KeyPublic)
				x.ChangeCertify = func(s *at.Statement) {
					s.Body = append(at.Sized(name), at.Sized(at.Name(at.Handle(at.Null), name))...)
				}
			}},
			{name: "a qualified name of another algorithm", forge: func(_ *testing.T, x *trial) {
				x.ChangeCertify = func(s *at.Statement) {
					s.Body = append(at.Sized(at.Name(x.KeyPublic)), at.Sized(make([]byte, 22))...)
				}
			}},
		},
		attest.CheckKeyCertifyNonce: {
			{name: "a stale nonce", forge: certify(func(s *at.Statement) {
				s.ExtraData = attest.Challenge{Nonce: make([]byte, 32), Audience: "https://verifier.example"}.CertifyData()
			})},
			{name: "made for another audience", forge: func(_ *testing.T, x *trial) {
				other := attest.Challenge{Nonce: x.challenge.Nonce, Audience: "https://other.example"}
				x.ChangeCertify = func(s *at.Statement) { s.ExtraData = other.CertifyData() }
			}},
			{name: "empty, as in Microsoft's own flow", forge: certify(func(s *at.Statement) { s.ExtraData = nil })},
			{name: "a prefix of the right one", forge: certify(func(s *at.Statement) { s.ExtraData = s.ExtraData[:31] })},
			{name: "the quote's", forge: func(_ *testing.T, x *trial) {
				x.ChangeCertify = func(s *at.Statement) { s.ExtraData = x.challenge.QuoteData(at.Name(x.KeyPublic)) }
			}},
		},
		attest.CheckKeyMatch: {
			{name: "a request for another key", forge: func(_ *testing.T, x *trial) { x.key = &x.w.keys.Other.PublicKey }},
			{name: "a request for a key of another type", forge: func(_ *testing.T, x *trial) { x.key = ed25519.PublicKey{} }},
			{name: "a pointer to no key", forge: func(_ *testing.T, x *trial) { x.key = (*rsa.PublicKey)(nil) }},
		},
	}
}

func quoteForgeries() map[string][]forgery {
	quote := func(change func(*at.Statement)) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.ChangeQuote = change }
	}
	selected := func(bank uint16, bitmap ...byte) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) {
			x.ChangeQuote = func(s *at.Statement) { s.Body = at.Quoted(bank, bitmap, x.PCRs) }
		}
	}
	return map[string][]forgery{
		attest.CheckQuoteStructure: {
			{name: "a certify in its place", forge: quote(func(s *at.Statement) { s.Type = 0x8017 })},
			{name: "bytes after the statement", forge: quote(func(s *at.Statement) { s.Body = append(s.Body, 0) })},
			{name: "more selections than there are banks", forge: quote(func(s *at.Statement) { s.Body[0] = 0xff })},
		},
		attest.CheckQuoteSignature: {
			{name: "by another AK", forge: func(t *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					other := *x.Machine
					other.AK = x.w.keys.Other
					e.QuoteSignature = other.Sign(t, e.Quote)
				}
			}},
			{name: "statement changed after signing", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.Quote[76+7]++ }
			}},
		},
		attest.CheckQuoteSigner: {
			{name: "by a key that calls itself otherwise", forge: quote(func(s *at.Statement) { s.Signer = at.Name([]byte("other")) })},
		},
		attest.CheckQuoteNonce: {
			{name: "a stale nonce", forge: func(_ *testing.T, x *trial) {
				old := attest.Challenge{Nonce: make([]byte, 32), Audience: x.challenge.Audience}
				x.ChangeQuote = func(s *at.Statement) { s.ExtraData = old.QuoteData(at.Name(x.KeyPublic)) }
			}},
			{name: "made for another binding key", forge: func(_ *testing.T, x *trial) {
				x.ChangeQuote = func(s *at.Statement) { s.ExtraData = x.challenge.QuoteData(at.Name([]byte("other"))) }
			}},
			{name: "longer than the right one", forge: quote(func(s *at.Statement) { s.ExtraData = append(s.ExtraData, 0) })},
		},
		attest.CheckQuoteSelection: {
			{name: "PCR 7 left out", also: []string{attest.CheckQuoteDigest}, forge: selected(0x000B, 0x7f, 0, 0)},
			{name: "nothing selected", also: []string{attest.CheckQuoteDigest}, forge: selected(0x000B, 0, 0, 0)},
			{name: "the SHA-1 bank", forge: selected(0x0004, 0xff, 0, 0)},
			{name: "an odd bitmap", forge: selected(0x000B, 0xff)},
			{name: "two banks", forge: func(_ *testing.T, x *trial) {
				x.ChangeQuote = func(s *at.Statement) {
					one := at.Quoted(0x000B, []byte{0xff, 0, 0}, x.PCRs)
					two := append([]byte{0, 0, 0, 2}, one[4:10]...)
					two = append(two, 0x00, 0x04, 3, 0xff, 0, 0)
					s.Body = append(two, one[10:]...)
				}
			}},
		},
		attest.CheckQuoteDigest: {
			{name: "another value listed", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					e.PCRs = map[int][]byte{}
					for i, d := range x.PCRs {
						e.PCRs[i] = d
					}
					e.PCRs[4] = make([]byte, 32)
				}
			}},
			{name: "a value listed that was not quoted", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.PCRs[10] = make([]byte, 32) }
			}},
		},
		attest.CheckQuoteCoherence: {
			{name: "certify before a reset, quote after", forge: quote(func(s *at.Statement) { s.Reset++ })},
			{name: "certify before a resume, quote after", forge: quote(func(s *at.Statement) { s.Restart++ })},
			{name: "another TPM firmware", forge: quote(func(s *at.Statement) { s.Firmware++ })},
			{name: "statements far apart", forge: quote(func(s *at.Statement) { s.Clock += 60_001 })},
		},
	}
}
