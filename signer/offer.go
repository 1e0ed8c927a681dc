package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// form is a signature scheme, by the TPM's name of it.
type form = tpm2.TPMAlgID

const (
	pkcs1 = tpm2.TPMAlgRSASSA // RSASSA-PKCS1-v1_5
	pss   = tpm2.TPMAlgRSAPSS // RSASSA-PSS with a salt of the hash's length
	ec    = tpm2.TPMAlgECDSA
)

// formsOf lists the schemes of a kind of key, the preferred one first.
func formsOf(public crypto.PublicKey) []form {
	switch public.(type) {
	case *rsa.PublicKey:
		return []form{pss, pkcs1}
	case *ecdsa.PublicKey:
		return []form{ec}
	}
	return nil
}

// hashesOf lists the hashes that a key may sign with, the one that it is used with first of all at
// the head: TLS 1.3 ties each curve to one hash (RFC 8446, 4.2.3).
func hashesOf(public crypto.PublicKey) []crypto.Hash {
	if key, ok := public.(*ecdsa.PublicKey); ok && key.Curve == elliptic.P384() {
		return []crypto.Hash{crypto.SHA384, crypto.SHA256, crypto.SHA512}
	}
	return []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
}

// trial is a form with a hash, which was tried out or was not.
type trial struct {
	form form
	hash crypto.Hash
}

// offer is what signatures have shown. It does not change: another trial makes another offer.
type offer map[trial]finding

// finding is what a trial has shown.
type finding struct {
	works bool
	salt  int // of PSS, measured, in bytes; -1: there is no signature to measure
}

// shown reports whether a signature has shown it. Otherwise it is a refusal, which anyone between
// the TPM and the agent can forge.
func (f finding) shown() bool { return f.works || f.salt >= 0 }

// with returns the offer with one more finding.
func (o offer) with(t trial, f finding) offer {
	more := maps.Clone(o)
	if more == nil {
		more = make(offer)
	}
	more[t] = f
	return more
}

// works reports whether anything does.
func (o offer) works() bool {
	for _, f := range o {
		if f.works {
			return true
		}
	}
	return false
}

// salt returns the measured salt length with a hash, -1 if there is none.
func (o offer) salt(h crypto.Hash) int {
	if f, ok := o[trial{pss, h}]; ok {
		return f.salt
	}
	return -1
}

// check refuses what no trial found to work.
func (o offer) check(t trial) error {
	if o[t].works {
		return nil
	}
	if n := o.salt(t.hash); t.form == pss && n >= 0 {
		return fmt.Errorf("%w: PSS with %v: this TPM salts it with %d bytes, not %d", ErrUnsupported, t.hash, n, t.hash.Size())
	}
	return fmt.Errorf("%w: %s with %s", ErrUnsupported, formName(t.form), hashName(t.hash))
}

func formName(f form) string {
	switch f {
	case pkcs1:
		return "PKCS #1 v1.5"
	case pss:
		return "PSS"
	}
	return "ECDSA"
}

// hashName names a hash, also hash 0, which means "not hashed" in Go and which no TPM knows.
func hashName(h crypto.Hash) string {
	if h == 0 {
		return "data that is not a digest"
	}
	return h.String()
}

// SignatureSchemes lists what the key can sign in TLS, in order of preference, for
// tls.Certificate.SupportedSignatureAlgorithms. Schemes that were not tried out yet are tried now,
// with up to six signatures, as long as the context lasts; those that cannot be tried are left out.
// An RSA key without PSS cannot be used in TLS 1.3.
func (k *Key) SignatureSchemes(ctx context.Context) []tls.SignatureScheme {
	for _, t := range trialsOf(k.public) {
		if _, ok := tlsScheme(t.form, t.hash, k.public); ok {
			_ = k.want(ctx, t) // it is left out
		}
	}
	return k.ProvenSchemes()
}

// ProvenSchemes is SignatureSchemes without those that were not tried out yet: after [Open], all
// with the hash that the key is used with first. It does not wait.
func (k *Key) ProvenSchemes() []tls.SignatureScheme {
	offered := k.offered()
	var schemes []tls.SignatureScheme
	for _, t := range trialsOf(k.public) {
		if s, ok := tlsScheme(t.form, t.hash, k.public); ok && offered[t].works {
			schemes = append(schemes, s)
		}
	}
	return schemes
}

// SchemesFor lists what the key can sign in TLS for a server that takes these schemes. Where the
// server takes none that is proven, those that it takes are tried out. PKCS #1 does not do for a
// server that also lists PSS: TLS 1.3 lists PKCS #1 for certificates only (RFC 8446, 4.2.3).
func (k *Key) SchemesFor(ctx context.Context, server []tls.SignatureScheme) []tls.SignatureScheme {
	taken := func(s tls.SignatureScheme) bool { return slices.Contains(server, s) }
	proven := slices.DeleteFunc(k.ProvenSchemes(), func(s tls.SignatureScheme) bool { return !taken(s) })
	onlyPKCS1 := len(proven) > 0 && !slices.ContainsFunc(proven, isNoPKCS1)
	if len(proven) > 0 && !(onlyPKCS1 && slices.ContainsFunc(server, isPSS)) {
		return k.ProvenSchemes()
	}
	for _, t := range trialsOf(k.public) {
		s, ok := tlsScheme(t.form, t.hash, k.public)
		if ok && taken(s) && (isNoPKCS1(s) || !onlyPKCS1) { // one hash with PKCS #1 is enough
			_ = k.want(ctx, t) // it is left out
		}
	}
	return k.ProvenSchemes()
}

func isPSS(s tls.SignatureScheme) bool {
	return s == tls.PSSWithSHA256 || s == tls.PSSWithSHA384 || s == tls.PSSWithSHA512
}

func isNoPKCS1(s tls.SignatureScheme) bool {
	return s != tls.PKCS1WithSHA256 && s != tls.PKCS1WithSHA384 && s != tls.PKCS1WithSHA512
}

// trialsOf lists all trials with a kind of key, in order of preference.
func trialsOf(public crypto.PublicKey) []trial {
	var list []trial
	for _, f := range formsOf(public) {
		for _, h := range hashesOf(public) {
			list = append(list, trial{f, h})
		}
	}
	return list
}

// TLSVersions lists the versions of TLS in which the key can be used, the latest first.
func (k *Key) TLSVersions() []uint16 {
	schemes := k.ProvenSchemes()
	if len(schemes) == 0 {
		return nil
	}
	if slices.ContainsFunc(schemes, isNoPKCS1) { // RFC 8446, 4.2.3
		return []uint16{tls.VersionTLS13, tls.VersionTLS12}
	}
	return []uint16{tls.VersionTLS12}
}

// tlsScheme returns the name of a scheme and hash in TLS (RFC 8446, 4.2.3). TLS 1.3 ties each curve
// to one hash.
func tlsScheme(f form, h crypto.Hash, public crypto.PublicKey) (tls.SignatureScheme, bool) {
	if key, ok := public.(*ecdsa.PublicKey); ok {
		switch {
		case key.Curve == elliptic.P256() && h == crypto.SHA256:
			return tls.ECDSAWithP256AndSHA256, true
		case key.Curve == elliptic.P384() && h == crypto.SHA384:
			return tls.ECDSAWithP384AndSHA384, true
		}
		return 0, false
	}
	schemes := map[crypto.Hash][2]tls.SignatureScheme{
		crypto.SHA256: {tls.PSSWithSHA256, tls.PKCS1WithSHA256},
		crypto.SHA384: {tls.PSSWithSHA384, tls.PKCS1WithSHA384},
		crypto.SHA512: {tls.PSSWithSHA512, tls.PKCS1WithSHA512},
	}
	if f == pss {
		return schemes[h][0], true
	}
	return schemes[h][1], true
}
