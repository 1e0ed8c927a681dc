package formats_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/formats"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/signer/certreq"
)

var (
	worldOnce sync.Once
	amd       *at.AMD
	ca        *at.CA
	keys      at.Keys
)

// machine makes a machine whose evidence verifies, and its answer to a challenge.
func machine(t testing.TB) (*at.Machine, *attest.Evidence) {
	t.Helper()
	worldOnce.Do(func() { amd, ca, keys = at.NewAMD(t), at.NewCA(t), at.NewKeys(t) })
	m := at.NewMachine(t, amd, ca, keys)
	return m, m.Evidence(t, challenge())
}

func challenge() attest.Challenge {
	return attest.Challenge{Nonce: bytes.Repeat([]byte{7}, 32), Audience: "https://verifier.example"}
}

// appraisal verifies evidence after a change to what is asked.
func appraisal(t testing.TB, m *at.Machine, e *attest.Evidence, change func(*attest.Policy)) formats.Appraisal {
	t.Helper()
	p := attest.DefaultPolicy()
	if change != nil {
		change(&p)
	}
	return formats.Appraisal{
		Result: attest.Verify(e, challenge(), m.Anchors(), p, at.Epoch()), Nonce: challenge().Nonce, At: at.Epoch(),
		Build: "v1.2.3", PolicyIDs: []string{"sha-256:00"},
	}
}

// decoded writes and reads JSON back, numbers as they are written.
func decoded(t testing.TB, text []byte) map[string]any {
	t.Helper()
	var v map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return v
}

func result(t testing.TB, f formats.Format, a formats.Appraisal) map[string]any {
	t.Helper()
	var b bytes.Buffer
	if err := formats.WriteResult(&b, f, a); err != nil {
		t.Fatal(err)
	}
	return decoded(t, b.Bytes())
}

// at takes members of nested objects.
func member(v any, path ...string) any {
	for _, name := range path {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[name]
	}
	return v
}

// The names and values of draft-ietf-rats-ear-04, 3 and 4.
func TestAnEARHasTheDraftsMembers(t *testing.T) {
	t.Parallel()
	m, e := machine(t)
	ear := result(t, formats.EAR, appraisal(t, m, e, func(p *attest.Policy) {
		p.EventLog.SecureBoot = true
		p.PCRValues = map[int][][]byte{7: {m.PCRs[7]}}
	}))
	one := member(ear, "submods", formats.Label)
	for _, tt := range []struct {
		where any
		name  string
		want  any
	}{
		{ear, "eat_profile", "tag:ietf.org,2026:rats/ear#04"},
		{ear, "iat", json.Number("1780315200")},
		{ear, "ear_status", "affirming"},
		{ear, "ear_verifier_id", map[string]any{"developer": "https://github.com/keyagent/keyagent", "build": "v1.2.3"}},
		{one, "ear_status", "affirming"},
		{one, "ear_appraisal_policy_ids", []any{"sha-256:00"}},
		{one, "eat_nonce", base64.RawURLEncoding.EncodeToString(challenge().Nonce)},
		{one, "ear_trustworthiness_vector", map[string]any{
			"instance-identity": json.Number("2"), "configuration": json.Number("2"), "executables": json.Number("3"), "file-system": json.Number("0"),
			"hardware": json.Number("2"), "runtime-opaque": json.Number("2"), "storage-opaque": json.Number("0"), "sourced-data": json.Number("0"),
		}},
		{member(one, "ear_verifier_claims"), "keyagent_verdict", "verified"},
		{member(one, "ear_attester_claims"), "keyagent_vm_id", at.VMID},
		{member(one, "ear_attester_claims"), "keyagent_kind", "snp"},
		{member(one, "ear_attester_claims", "keyagent_event_log"), "secure_boot", "enabled"},
	} {
		if diff := cmp.Diff(tt.want, member(tt.where, tt.name)); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	known := map[string][]string{
		"": {"eat_profile", "iat", "ear_verifier_id", "ear_status", "submods"},
		"appraisal": {"ear_status", "ear_trustworthiness_vector", "ear_appraisal_policy_ids", "eat_nonce", "ear_attester_claims",
			"ear_verifier_claims"},
	}
	for name := range ear {
		if !slices.Contains(known[""], name) {
			t.Errorf("member %q is none of the draft's", name)
		}
	}
	for name := range one.(map[string]any) {
		if !slices.Contains(known["appraisal"], name) {
			t.Errorf("member %q of an appraisal is none of the draft's", name)
		}
	}
}

func TestTheVectorSaysWhatWasFound(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*at.Machine)
		policy func(*attest.Policy)
		status string
		worse  map[string]int // than for good evidence without further policy
	}{
		"good, and nothing asked of the boot": {status: "affirming"},
		"an unknown AK certificate": {change: func(m *at.Machine) {
			m.ChangeAnchors = func(a *attest.TrustAnchors) { a.VTPM = nil }
		}, status: "contraindicated", worse: map[string]int{"instance-identity": 97}},
		"a quote signed by another": {change: func(m *at.Machine) {
			m.ChangeEvidence = func(e *attest.Evidence) { e.QuoteSignature = e.CertifySignature }
		}, status: "contraindicated", worse: map[string]int{"instance-identity": 96}},
		"an old nonce": {change: func(m *at.Machine) {
			m.ChangeQuote = func(s *at.Statement) { s.ExtraData = make([]byte, 32) }
		}, status: "contraindicated"},
		"debugging allowed": {change: func(m *at.Machine) {
			m.ChangeReport = func(raw []byte) { raw[0x0A] |= 1 << 3 }
		}, status: "contraindicated", worse: map[string]int{"runtime-opaque": 96}},
		"firmware of another party": {change: func(m *at.Machine) { m.IDKeyDigest = make([]byte, 48) },
			status: "contraindicated", worse: map[string]int{"hardware": 97, "runtime-opaque": 0}},
		"an old firmware level": {policy: func(p *attest.Policy) { p.MinTCB = 5 },
			status: "contraindicated", worse: map[string]int{"hardware": 32, "runtime-opaque": 0}},
		"secure boot off": {change: func(m *at.Machine) {
			m.Claims = bytes.Replace(m.Claims, []byte(`"secure-boot":true`), []byte(`"secure-boot":false`), 1)
		}, policy: func(p *attest.Policy) { p.RequireSecureBoot = true },
			status: "contraindicated", worse: map[string]int{"configuration": 96}},
		"another PCR": {policy: func(p *attest.Policy) { p.PCRValues = map[int][][]byte{7: {make([]byte, 32)}} },
			status: "contraindicated", worse: map[string]int{"executables": 33}},
		"a part is missing": {change: func(m *at.Machine) {
			m.ChangeEvidence = func(e *attest.Evidence) { e.Certify = nil }
		}, status: "contraindicated"},
	} {
		m, _ := machine(t)
		if tt.change != nil {
			tt.change(m)
		}
		ear := result(t, formats.EAR, appraisal(t, m, m.Evidence(t, challenge()), tt.policy))
		one := member(ear, "submods", formats.Label)
		want := map[string]int{"instance-identity": 2, "hardware": 2, "runtime-opaque": 2}
		for claim, value := range tt.worse {
			want[claim] = value
		}
		for claim, value := range member(one, "ear_trustworthiness_vector").(map[string]any) {
			if got, _ := value.(json.Number).Int64(); got != int64(want[claim]) {
				t.Errorf("%s: %s is %v, want %d", name, claim, value, want[claim])
			}
		}
		if member(one, "ear_status") != tt.status || member(ear, "ear_status") != tt.status {
			t.Errorf("%s: status %v", name, member(one, "ear_status"))
		}
		if facts := member(one, "ear_attester_claims"); (facts != nil) != (tt.status == "affirming") {
			t.Errorf("%s: facts %v", name, facts)
		}
	}
}

// The claims of RFC 9711, with its types: text for nonces and bytes, words for debugging, pairs for
// measurements.
func TestAnEATHasTheClaimsOfTheRFC(t *testing.T) {
	t.Parallel()
	_, e := machine(t)
	var b bytes.Buffer
	if err := formats.WriteEvidence(&b, formats.EAT, e); err != nil {
		t.Fatal(err)
	}
	eat := decoded(t, b.Bytes())
	b64 := base64.RawURLEncoding
	nonce, _ := eat["eat_nonce"].(string)
	if got, err := b64.DecodeString(nonce); err != nil || !bytes.Equal(got, e.Nonce) || len(nonce) < 8 || len(nonce) > 88 {
		t.Errorf("eat_nonce %q", nonce)
	}
	ueid, _ := eat["ueid"].(string)
	if got, err := b64.DecodeString(ueid); err != nil || len(got) != 17 || got[0] != 1 {
		t.Errorf("ueid %q", ueid)
	}
	n, _ := member(eat, "cnf", "jwk", "n").(string)
	if got, err := b64.DecodeString(n); err != nil || new(big.Int).SetBytes(got).Cmp(keys.Key.N) != 0 {
		t.Errorf("key %q", n)
	}
	for _, tt := range []struct {
		path []string
		want any
	}{
		{[]string{"eat_profile"}, formats.EATProfile},
		{[]string{"aud"}, "https://verifier.example"},
		{[]string{"cnf", "jwk", "kty"}, "RSA"},
		{[]string{"cnf", "jwk", "e"}, "AQAB"},
		{[]string{"submods", "tpm", "bootcount"}, json.Number("3")},
		{[]string{"submods", "tee", "dbgstat"}, "disabled-since-boot"},
		{[]string{"submods", "tee", "hwmodel"}, b64.EncodeToString([]byte("AMD SEV-SNP"))},
	} {
		if diff := cmp.Diff(tt.want, member(eat, tt.path...)); diff != "" {
			t.Errorf("%v: %s", tt.path, diff)
		}
	}
	if !strings.Contains(measured(t, eat, "tpm"), `"7":"`) || !strings.Contains(measured(t, eat, "tee"), `"id_key_digest":"942f`) {
		t.Errorf("measurements: %s; %s", measured(t, eat, "tpm"), measured(t, eat, "tee"))
	}
}

func measured(t *testing.T, eat map[string]any, submod string) string {
	t.Helper()
	list, _ := member(eat, "submods", submod, "measurements").([]any)
	if len(list) == 0 {
		t.Fatalf("no measurements of %s", submod)
	}
	pair, _ := list[0].([]any)
	if len(pair) != 2 || pair[0] != json.Number("50") {
		t.Fatalf("measurement %v", pair)
	}
	text, _ := pair[1].(string)
	body, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || !json.Valid(body) {
		t.Fatalf("measurement %q: %v", text, err)
	}
	return string(body)
}

// A claims set says what evidence says, also if it is not true or there is little of it.
func TestAnEATOfPoorEvidence(t *testing.T) {
	t.Parallel()
	m, _ := machine(t)
	m.ChangeReport = func(raw []byte) { raw[0x0A] |= 1 << 3 }
	var b bytes.Buffer
	if err := formats.WriteEvidence(&b, formats.EAT, m.Evidence(t, challenge())); err != nil {
		t.Fatal(err)
	}
	if got := member(decoded(t, b.Bytes()), "submods", "tee", "dbgstat"); got != "enabled" {
		t.Errorf("dbgstat %v", got)
	}
	b.Reset()
	if err := formats.WriteEvidence(&b, formats.EAT, &attest.Evidence{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"eat_profile": formats.EATProfile}, decoded(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
	if err := formats.WriteEvidence(&b, formats.EAT, &attest.Evidence{KeyPublic: []byte("key")}); err == nil {
		t.Error("a key that cannot be read is written")
	}
}

func TestABundleIsWrittenAsItIsSent(t *testing.T) {
	t.Parallel()
	_, e := machine(t)
	var b bytes.Buffer
	if err := formats.WriteEvidence(&b, formats.Bundle, e); err != nil {
		t.Fatal(err)
	}
	again, err := attest.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, again); diff != "" {
		t.Error(diff)
	}
}

func TestFormatsHaveNames(t *testing.T) {
	t.Parallel()
	if f, err := formats.Parse("ear", formats.OfResults()); err != nil || f != formats.EAR {
		t.Errorf("%q, %v", f, err)
	}
	for _, name := range []string{"eat", "EAR", ""} {
		if _, err := formats.Parse(name, formats.OfResults()); err == nil || !strings.Contains(err.Error(), "ear, ear-veraison") {
			t.Errorf("%q: %v", name, err)
		}
	}
	m, e := machine(t)
	if err := formats.WriteEvidence(new(bytes.Buffer), formats.EAR, e); err == nil {
		t.Error("evidence as a result")
	}
	a := appraisal(t, m, e, nil)
	for name, broken := range map[string]formats.Appraisal{"no result": {At: a.At}, "no time": {Result: a.Result}} {
		if err := formats.WriteResult(new(bytes.Buffer), formats.EAR, broken); err == nil {
			t.Error(name)
		}
	}
	if err := formats.WriteResult(new(bytes.Buffer), formats.EAT, a); err == nil {
		t.Error("a result as evidence")
	}
}

// request makes a request with evidence in it.
func request(t testing.TB, key crypto.Signer, e *attest.Evidence, change func([]byte) []byte) []byte {
	t.Helper()
	attribute, err := formats.Attribute(e)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		attribute = change(attribute)
	}
	subject, err := certreq.ParseSubject("CN=app")
	if err != nil {
		t.Fatal(err)
	}
	der, err := certreq.NewCertificateRequest(key, certreq.RequestOptions{Names: certreq.Names{Subject: subject}, Attributes: [][]byte{attribute}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// What a certification authority does: read the request, and verify the evidence for its key.
func TestARequestCarriesEvidenceOfItsKey(t *testing.T) {
	t.Parallel()
	m, e := machine(t)
	read, got, err := formats.ParseRequest(request(t, keys.Key, e, nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
	r := attest.VerifyForKey(got, challenge(), read.PublicKey, m.Anchors(), attest.DefaultPolicy(), at.Epoch())
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

func TestRequestsThatAreNotWholeAreRefused(t *testing.T) {
	t.Parallel()
	m, e := machine(t)
	m.KeyPublic = at.Public(&keys.Other.PublicKey, at.BindingKeyAttributes, nil)
	other := m.Evidence(t, challenge())
	swap := func(from, to []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			if bytes.Count(b, from) != 1 || len(from) != len(to) {
				t.Fatalf("%d places of %d bytes, %d instead", bytes.Count(b, from), len(from), len(to))
			}
			return bytes.Replace(b, from, to, 1)
		}
	}
	changed := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		return b
	}
	plain, err := certreq.NewCertificateRequest(keys.Key, certreq.RequestOptions{Names: certreq.Names{Subject: mustSubject(t)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		der  []byte
		want string
	}{
		"no request":                         {[]byte("x"), "asn1"},
		"too large":                          {make([]byte, 3<<20), "at most"},
		"no attribute":                       {plain, "no keyagent evidence"},
		"signed by another key":              {request(t, keys.Other, e, nil), "another key"},
		"evidence of another key":            {request(t, keys.Key, other, nil), "another key"},
		"another certify for the TCG reader": {request(t, keys.Key, e, swap(e.Certify, changed(e.Certify))), "2.23.133.20.1"},
		"another key for the TCG reader":     {request(t, keys.Key, e, swap(e.KeyPublic, other.KeyPublic)), "2.23.133.20.1"},
		"another quote for the TCG reader":   {request(t, keys.Key, e, swap(e.Quote, changed(e.Quote))), "2.23.133.20.2"},
		"no bundle":                          {request(t, keys.Key, e, swap([]byte("\x06\x14\x69"), []byte("\x06\x14\x68"))), "no keyagent evidence"},
		"a bundle that cannot be read":       {request(t, keys.Key, e, swap([]byte(`{"format"`), []byte(`{"formal"`))), "formal"},
		"two statements of one type":         {request(t, keys.Key, e, swap([]byte("\x06\x05\x67\x81\x05\x14\x02"), []byte("\x06\x05\x67\x81\x05\x14\x01"))), "one type"},
	} {
		if _, _, err := formats.ParseRequest(tt.der); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
	}
	der := request(t, keys.Key, e, nil)
	der[len(der)-1] ^= 1
	if _, _, err := formats.ParseRequest(der); err == nil {
		t.Error("the signature is not verified")
	}
	if _, err := formats.Attribute(&attest.Evidence{Quote: e.Quote}); err == nil {
		t.Error("evidence about no key")
	}
}

func mustSubject(t testing.TB) certreq.Subject {
	t.Helper()
	s, err := certreq.ParseSubject("CN=app")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A reader that knows the attribute and the TCG's statements, and nothing of ours, finds the key
// and the chain of the attestation key.
func TestAReaderOfTheTCGsStatementsFindsTheKey(t *testing.T) {
	t.Parallel()
	_, e := machine(t)
	e.CertifySignature = e.CertifySignature[6:] // bare, as some tools write it
	e.AKCertificate = append(e.AKCertificate, make([]byte, 100)...)
	attribute, err := formats.Attribute(e)
	if err != nil {
		t.Fatal(err)
	}
	statements, certificates := tcgReader(t, attribute)
	if len(statements) != 2 || statements[0].Type != "2.23.133.20.1" || !bytes.Equal(statements[0].Parts[0], e.Certify) ||
		len(statements[0].Parts[1]) != 262 || !bytes.Equal(statements[0].Parts[2], e.KeyPublic) {
		t.Errorf("statements: %+v", statements)
	}
	if len(certificates) != 1 || !certificates[0].PublicKey.(*rsa.PublicKey).Equal(&keys.AK.PublicKey) {
		t.Errorf("%d certificates", len(certificates))
	}
}

// FuzzReadInfo: what is accepted can be put into a request again, and is read from there.
func FuzzReadInfo(f *testing.F) {
	f.Add(info(f, &attest.Evidence{KeyPublic: []byte("k"), Certify: []byte("c"), CertifySignature: []byte("s")}))
	f.Fuzz(func(t *testing.T, der []byte) {
		evidence, err := formats.ReadInfo(der)
		if err != nil || evidence.KeyPublic == nil || evidence.Certify == nil || evidence.CertifySignature == nil {
			return
		}
		again, err := formats.ReadInfo(info(t, evidence))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(evidence, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

// info is a CertificationRequestInfo with little but the attribute.
func info(t testing.TB, e *attest.Evidence) []byte {
	t.Helper()
	attribute, err := formats.Attribute(e)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		Version      int
		Subject, Key struct{}
		Attributes   []asn1.RawValue `asn1:"tag:0,set"`
	}{Attributes: []asn1.RawValue{{FullBytes: attribute}}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
