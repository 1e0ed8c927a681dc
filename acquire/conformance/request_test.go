package conformance_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/acquire"
)

// pssAlgorithm is the AlgorithmIdentifier that the issuer takes, in hexadecimal: the hashes without
// NULL, salt 32, no trailer field.
const pssAlgorithm = "303d" + "06092a864886f70d01010a" + "3030" +
	"a00d300b0609608648016503040201" +
	"a11a301806092a864886f70d010108300b0609608648016503040201" +
	"a203020120"

// certificateRequest is a PKCS#10 request in its parts. It is read here with no help from the agent
// or the simulator.
type certificateRequest struct {
	text      string // as it was sent
	info      []byte // CertificationRequestInfo, what is signed
	version   int64
	subject   []nameAttribute
	spki      []byte
	attribute asn1.ObjectIdentifier
	value     nameAttribute
	algorithm []byte
	signature []byte
}

type nameAttribute struct {
	oid   string
	tag   cbasn1.Tag
	value string
}

// sentRequest obtains a certificate and returns the request for it.
func sentRequest(t *testing.T) (*azure, certificateRequest) {
	t.Helper()
	a := newAzure(t, vmIdentity())
	a.mustGet(vault, acquire.TypeBearer)
	var body struct {
		CSR string `json:"csr"`
	}
	if err := json.Unmarshal([]byte(a.metadata.requestsTo("issuecredential")[0].body), &body); err != nil {
		t.Fatal(err)
	}
	der, err := base64.StdEncoding.Strict().DecodeString(body.CSR)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := parseRequest(der)
	if !ok {
		t.Fatalf("not a PKCS#10 request of this form: %x", der)
	}
	r.text = body.CSR
	return a, r
}

func parseRequest(der []byte) (r certificateRequest, ok bool) {
	input := cryptobyte.String(der)
	var outer, info, inner, names, spki, attributes, algorithm cryptobyte.String
	ok = input.ReadASN1(&outer, cbasn1.SEQUENCE) && input.Empty() &&
		outer.ReadASN1Element(&info, cbasn1.SEQUENCE) && outer.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) &&
		outer.ReadASN1BitStringAsBytes(&r.signature) && outer.Empty()
	r.info, r.algorithm = info, algorithm
	ok = ok && info.ReadASN1(&inner, cbasn1.SEQUENCE) && inner.ReadASN1Integer(&r.version) && inner.ReadASN1(&names, cbasn1.SEQUENCE) &&
		inner.ReadASN1Element(&spki, cbasn1.SEQUENCE) && inner.ReadASN1(&attributes, cbasn1.Tag(0).ContextSpecific().Constructed()) && inner.Empty()
	r.spki = spki
	for ok && !names.Empty() {
		var set, pair cryptobyte.String
		var n nameAttribute
		ok = names.ReadASN1(&set, cbasn1.SET) && set.ReadASN1(&pair, cbasn1.SEQUENCE) && set.Empty() && readAttribute(&pair, &n)
		r.subject = append(r.subject, n)
	}
	var attribute, values, value cryptobyte.String
	ok = ok && attributes.ReadASN1(&attribute, cbasn1.SEQUENCE) && attributes.Empty() && attribute.ReadASN1ObjectIdentifier(&r.attribute) &&
		attribute.ReadASN1(&values, cbasn1.SET) && attribute.Empty() && values.ReadAnyASN1(&value, &r.value.tag) && values.Empty()
	r.value.value = string(value)
	return r, ok
}

func readAttribute(s *cryptobyte.String, n *nameAttribute) bool {
	var oid asn1.ObjectIdentifier
	var value cryptobyte.String
	ok := s.ReadASN1ObjectIdentifier(&oid) && s.ReadAnyASN1(&value, &n.tag) && s.Empty()
	n.oid, n.value = oid.String(), string(value)
	return ok
}

// requestDemands are those of section 2.
func requestDemands() []demand {
	return []demand{
		{"2.1", "standard base64 with padding, one line, no PEM", func(t *testing.T) {
			_, r := sentRequest(t)
			if strings.ContainsAny(r.text, "-_\r\n ") || len(r.text)%4 != 0 {
				t.Errorf("sent %q", r.text)
			}
		}},
		{"2.1", "version 0, one attribute 1.3.6.1.4.1.311.90.2.10 with one UTF8String, no extensions", func(t *testing.T) {
			_, r := sentRequest(t)
			if r.version != 0 || r.attribute.String() != "1.3.6.1.4.1.311.90.2.10" || r.value.tag != cbasn1.UTF8String {
				t.Errorf("got version %d, attribute %v of type %d", r.version, r.attribute, r.value.tag)
			}
		}},
		{"2.1", "the key is RSA-2048 with exponent 65537, as plain rsaEncryption with NULL", func(t *testing.T) {
			a, r := sentRequest(t)
			want, err := x509.MarshalPKIXPublicKey(a.key.Public())
			if err != nil || !bytes.Equal(r.spki, want) {
				t.Errorf("got %x, %v", r.spki, err)
			}
			if prefix := "30820122300d06092a864886f70d01010105000382010f00"; !strings.HasPrefix(hex.EncodeToString(r.spki), prefix) {
				t.Errorf("SubjectPublicKeyInfo begins %x", r.spki[:24])
			}
			if suffix := []byte{2, 3, 1, 0, 1}; !bytes.HasSuffix(r.spki, suffix) {
				t.Error("the exponent is not 65537")
			}
		}},
		{"2.2", "DC as IA5String, then CN as UTF8String", func(t *testing.T) {
			a, r := sentRequest(t)
			if len(r.subject) != 2 {
				t.Fatalf("got %+v", r.subject)
			}
			if want := (nameAttribute{"0.9.2342.19200300.100.1.25", cbasn1.Tag(asn1.TagIA5String), a.tenant}); r.subject[0] != want {
				t.Errorf("got %+v, want %+v", r.subject[0], want)
			}
			if want := (nameAttribute{"2.5.4.3", cbasn1.UTF8String, a.system.ClientID}); r.subject[1] != want {
				t.Errorf("got %+v, want %+v", r.subject[1], want)
			}
		}},
		{"2.3", "cuId is compact JSON", func(t *testing.T) {
			a, r := sentRequest(t)
			if want := `{"vmId":"` + a.vm + `"}`; r.value.value != want {
				t.Errorf("got %s, want %s", r.value.value, want)
			}
		}},
		{"2.3", "cuId loses its white space and null or empty members, and nothing else", func(t *testing.T) { repeatsComputeUnit(t) }},
		{"2.4", "RSASSA-PSS with SHA-256: no NULL, salt 32, no trailer field", func(t *testing.T) {
			_, r := sentRequest(t)
			if got := hex.EncodeToString(r.algorithm); got != pssAlgorithm {
				t.Errorf("got  %s\nwant %s", got, pssAlgorithm)
			}
		}},
		{"2.4", "the signature verifies with a salt of exactly 32 bytes", func(t *testing.T) {
			a, r := sentRequest(t)
			digest := sha256.Sum256(r.info)
			if err := rsa.VerifyPSS(&a.key.PublicKey, crypto.SHA256, digest[:], r.signature, &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}); err != nil {
				t.Error(err)
			}
		}},
		{"2.5", "the key is asked for a PSS signature with a salt of 32", func(t *testing.T) {
			var asked []crypto.SignerOpts
			a := newAzureWith(t, func(a *azure) { a.cfg.Key = watchedKey{softwareKey{a.key}, &asked} }, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			pss, ok := asked[0].(*rsa.PSSOptions)
			if len(asked) != 1 || !ok || pss.SaltLength != 32 || pss.Hash != crypto.SHA256 {
				t.Errorf("asked for %+v", asked)
			}
		}},
	}
}

// repeatsComputeUnit answers with a cuId that is written otherwise, and looks at what the request
// repeats of it.
func repeatsComputeUnit(t *testing.T) {
	a := newAzure(t, vmIdentity())
	unit := `{ "vmssId" : "a&<b>", "vmId" : "` + a.vm + `", "other": null, "empty": "" }`
	answer := `{"clientId":"` + a.system.ClientID + `","tenantId":"` + a.tenant + `","cuId":` + unit + `,"attestationEndpoint":"` + attestation + `"}`
	a.metadata.answers("getplatformmetadata", says(200, answer))
	if _, err := a.bearer(); err == nil {
		t.Error("the issuer took another cuId than its own")
	}
	var body struct {
		CSR []byte `json:"csr"`
	}
	if err := json.Unmarshal([]byte(a.metadata.requestsTo("issuecredential")[0].body), &body); err != nil {
		t.Fatal(err)
	}
	r, ok := parseRequest(body.CSR)
	if want := `{"vmssId":"a&<b>","vmId":"` + a.vm + `"}`; !ok || r.value.value != want {
		t.Errorf("got %s, want %s", r.value.value, want)
	}
}

// watchedKey keeps what it is asked for.
type watchedKey struct {
	softwareKey
	asked *[]crypto.SignerOpts
}

func (k watchedKey) WithContext(context.Context) crypto.Signer { return k }

func (k watchedKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	*k.asked = append(*k.asked, opts)
	return k.softwareKey.Sign(rand, digest, opts)
}
