package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// akKey is the public key of the attestation key.
func akKey(t *testing.T, on *tpm.TPM) crypto.PublicKey {
	t.Helper()
	area, _, err := on.ReadPublic(t.Context(), handleAK)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// go-attestation verifies it.
func TestCertifyIsAcceptedByGoAttestation(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	key, other := tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on)
	a, err := on.Certify(t.Context(), key, handleAK, []byte("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	verify := func(public []byte) error {
		p := attest.CertificationParameters{Public: public, CreateAttestation: a.Attest, CreateSignature: a.Signature}
		return p.Verify(attest.VerifyOpts{Public: akKey(t, on), Hash: crypto.SHA256})
	}
	if err := verify(key.PublicArea()); err != nil {
		t.Error(err)
	}
	if verify(other.PublicArea()) == nil {
		t.Error("accepted for another key")
	}
	if !bytes.HasPrefix(a.Signature, []byte{0, 0x14, 0, 0x0b, 1, 0}) || len(a.Signature) != 262 {
		t.Errorf("TPMT_SIGNATURE begins % x and has %d bytes", a.Signature[:6], len(a.Signature))
	}
}

// tpm2_checkquote and tpm2_print verify it.
func TestQuoteIsAcceptedByTPM2Tools(t *testing.T) {
	t.Parallel()
	checkquote, print := tooltest.Tool(t, "tpm2_checkquote"), tooltest.Tool(t, "tpm2_print")
	v := tpmtest.Simulator(t)
	w := tpmtest.NewTools(t, v)
	on := tpmtest.Connect(t, v.Device())
	extend(t, on, 7)
	der, err := x509.MarshalPKIXPublicKey(akKey(t, on))
	if err != nil {
		t.Fatal(err)
	}
	w.Write(t, "ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	for _, tt := range []struct {
		pcrs  []int
		plain bool
	}{
		{[]int{0, 1, 2, 3, 4, 5, 6, 7}, false},
		{[]int{23, 7, 16, 0}, false},
		{[]int{7}, false},
		{[]int{7}, true},
		{[]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}, false},
	} {
		t.Run(fmt.Sprintf("%v, plain sessions %v", tt.pcrs, tt.plain), func(t *testing.T) {
			on := tpmtest.ConnectWith(t, tpm.Config{Device: v.Device(), PlainSessions: tt.plain})
			q, err := on.Quote(t.Context(), handleAK, tt.pcrs, []byte{0xca, 0xfe})
			if err != nil {
				t.Fatal(err)
			}
			if len(q.PCRs) != len(tt.pcrs) {
				t.Errorf("%d values", len(q.PCRs))
			}
			var list []string
			var values []byte
			for _, pcr := range slices.Sorted(maps.Keys(q.PCRs)) {
				list = append(list, strconv.Itoa(pcr))
				values = append(values, q.PCRs[pcr]...)
			}
			w.Write(t, "quote", q.Attest)
			w.Write(t, "sig", q.Signature)
			w.Write(t, "values", values)
			values[len(values)-1] ^= 1
			w.Write(t, "other-values", values)
			check := []string{"-u", "ak.pem", "-m", "quote", "-s", "sig", "-g", "sha256"}
			withValues := append(slices.Clone(check), "-q", "cafe", "-l", "sha256:"+strings.Join(list, ","), "-f")
			w.Run(t, checkquote, append(check, "-q", "cafe")...)
			w.Fail(t, checkquote, append(check, "-q", "cafd")...)
			if len(tt.pcrs) < 8 { // the program does not manage more values
				w.Run(t, checkquote, append(withValues, "values")...)
				w.Fail(t, checkquote, append(withValues, "other-values")...)
			}
			wantPrinted(t, w.Run(t, print, "-t", "TPMS_ATTEST", "quote"), "magic: ff544347", "type: 8018", "extraData: cafe", "hash: 11 (sha256)", "pcrDigest: "+hex.EncodeToString(quoteInfo(t, q).PCRDigest.Buffer))
		})
	}
}

func wantPrinted(t *testing.T, said string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(said, line) {
			t.Errorf("not printed: %q in\n%s", line, said)
		}
	}
}

func extend(t *testing.T, on *tpm.TPM, pcr int) {
	t.Helper()
	do(t, on, func(c transport.TPM) error { return extendBy(c, pcr) })
}

func extendBy(c transport.TPM, pcr int) error {
	digest, longer := sha256.Sum256([]byte("event")), sha512.Sum384([]byte("event"))
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}, {HashAlg: tpm2.TPMAlgSHA384, Digest: longer[:]},
		}},
	}.Execute(c)
	return err
}

// The values are those that the quote covers, though somebody extends a PCR in between.
func TestQuoteIsTakenAgainWhenAPCRMoves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		moves int
		ok    bool
	}{{"once", 1, true}, {"twice", 2, true}, {"each time", 100, false}} {
		t.Run(tt.name, func(t *testing.T) {
			v := tpmtest.Simulator(t)
			proxy := tpmtest.NewProxy(t, v.Device())
			on := tpmtest.Connect(t, proxy.Device())
			var moved int
			proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				rsp, err := forward(command)
				if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCQuote && moved < tt.moves {
					moved++
					if err := extendBy(v, 4); err != nil {
						t.Error(err)
					}
				}
				return rsp, err
			})
			q, err := on.Quote(t.Context(), handleAK, []int{4}, nil)
			if (err == nil) != tt.ok {
				t.Fatal(err)
			}
			if !tt.ok {
				if moved != 3 {
					t.Errorf("quoted %d times", moved)
				}
				return
			}
			info := quoteInfo(t, q)
			if digest := sha256.Sum256(q.PCRs[4]); !bytes.Equal(digest[:], info.PCRDigest.Buffer) {
				t.Error("the value is not what the quote covers")
			}
		})
	}
}

func quoteInfo(t *testing.T, q tpm.Quote) *tpm2.TPMSQuoteInfo {
	t.Helper()
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](q.Attest)
	if err != nil {
		t.Fatal(err)
	}
	info, err := a.Attested.Quote()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestAttestationRefuses(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	key := tpmtest.CreateKey(t, on)
	// Its statements could be made up: it would sign any digest.
	const unrestricted = 0x81000005
	do(t, on, func(c transport.TPM) error {
		template := tpm.BindingKeyTemplate()
		template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
		}})
		return persistAt(t, c, template, unrestricted)
	})
	certify := func(ak tpm2.TPMHandle, data int) error {
		_, err := on.Certify(t.Context(), key, ak, make([]byte, data))
		return err
	}
	quote := func(ak tpm2.TPMHandle, data int, pcrs ...int) error {
		_, err := on.Quote(t.Context(), ak, pcrs, make([]byte, data))
		return err
	}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"qualifying data over 50 bytes for certify", certify(handleAK, 51), "give a digest"},
		{"qualifying data over 50 bytes for quote", quote(handleAK, 51, 0), "give a digest"},
		{"no key at the handle, certify", certify(0x81000009, 8), "there is no key"},
		{"no key at the handle, quote", quote(0x81000009, 8, 0), "there is no key"},
		{"a key that is no attestation key, certify", certify(tpm.HandleSRK, 8), "not an attestation key"},
		{"a key that is no attestation key, quote", quote(tpm.HandleSRK, 8, 0), "not an attestation key"},
		{"a key that signs anything, certify", certify(unrestricted, 8), "not an attestation key"},
		{"a key that signs anything, quote", quote(unrestricted, 8, 0), "not an attestation key"},
		{"no PCR", quote(handleAK, 8), "no PCR"},
		{"PCR 24", quote(handleAK, 8, 24), "0 to 23"},
		{"PCR -1", quote(handleAK, 8, -1), "0 to 23"},
	} {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, tt.err)
		}
	}
	if err := certify(handleAK, 50); err != nil {
		t.Error(err)
	}
	if n := len(transients(t, on)); n != 1 {
		t.Errorf("%d objects are loaded", n)
	}
}

func TestCertifyAfterAReset(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.Connect(t, v.Device())
	a, b := tpmtest.CreateKey(t, on), tpmtest.CreateKey(t, on)
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*tpm.Key{b, a} { // b gets a's old handle
		if _, err := on.Certify(t.Context(), k, handleAK, nil); err != nil {
			t.Error(err)
		}
	}
}
