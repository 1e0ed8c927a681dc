package attest_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

// span is a range of bytes of one part, with the check that must fail if one of them is changed.
type span struct {
	part     string
	from, to int // to 0: the end
	check    string
}

// spans are the signed and hashed structures of a bundle, and what lies around them, byte by byte.
func spans() []span {
	const report, claims = 32, 1236
	snp := func(from, to int, check string) span { return span{"hcl_report", report + from, report + to, check} }
	return []span{
		{"hcl_report", 0, 4, attest.CheckHCLStructure},               // signature
		{"hcl_report", 4, 32, attest.CheckHCLStructure},              // header
		{"hcl_report", 1216, 1228, attest.CheckHCLStructure},         // size, version, type
		{"hcl_report", 1232, claims, attest.CheckHCLStructure},       // size of the claims
		{"hcl_report", claims, claims + 400, attest.CheckHCLBinding}, // claims
		{"hcl_report", 2500, 2600, attest.CheckHCLStructure},         // padding
		snp(0x004, 0x2A0, attest.CheckSNPSignature),
		snp(0x001, 0x004, attest.CheckSNPStructure), // version
		snp(0x008, 0x010, attest.CheckSNPSignature),
		snp(0x034, 0x038, attest.CheckSNPStructure), // signature algorithm
		snp(0x04C, 0x050, attest.CheckSNPStructure), // reserved
		snp(0x050, 0x090, attest.CheckHCLBinding),   // report_data
		snp(0x0E0, 0x110, attest.CheckSNPLaunch),    // id_key_digest
		snp(0x180, 0x188, attest.CheckSNPIdentity),  // reported TCB
		snp(0x18B, 0x1A0, attest.CheckSNPStructure), // reserved
		snp(0x1A0, 0x1E0, attest.CheckSNPIdentity),  // chip_id
		snp(0x1F8, 0x2A0, attest.CheckSNPStructure), // reserved in version 3
		snp(0x2A0, 0x330, attest.CheckSNPSignature), // R and S
		snp(0x330, 0x4A0, attest.CheckSNPStructure), // reserved
		{"vcek", 0, 0, attest.CheckSNPChain},
		{"ak_certificate", 0, 0, attest.CheckAKCertificate},
		{"ak_public", 0, 0, attest.CheckAKPublic},
		{"key_public", 0, 0, attest.CheckKeyCertifyName},
		{"certify", 0, 0, attest.CheckKeyCertifySignature},
		{"certify", 0, 6, attest.CheckKeyCertifyStructure}, // magic, type
		{"certify", 8, 42, attest.CheckKeyCertifySigner},   // qualifiedSigner
		{"certify", 44, 76, attest.CheckKeyCertifyNonce},   // extraData
		{"certify", 84, 92, attest.CheckQuoteCoherence},    // resetCount, restartCount
		{"certify", 93, 101, attest.CheckQuoteCoherence},   // firmwareVersion
		{"certify", 103, 137, attest.CheckKeyCertifyName},  // name
		{"certify_signature", 0, 0, attest.CheckKeyCertifySignature},
		{"quote", 0, 0, attest.CheckQuoteSignature},
		{"quote", 0, 6, attest.CheckQuoteStructure},     // magic, type
		{"quote", 8, 42, attest.CheckQuoteSigner},       // qualifiedSigner
		{"quote", 44, 76, attest.CheckQuoteNonce},       // extraData
		{"quote", 84, 92, attest.CheckQuoteCoherence},   // resetCount, restartCount
		{"quote", 105, 107, attest.CheckQuoteSelection}, // bank
		{"quote", 108, 109, attest.CheckQuoteSelection}, // PCRs 0 to 7
		{"quote", 109, 111, attest.CheckQuoteDigest},    // PCRs 8 to 23
		{"quote", 113, 145, attest.CheckQuoteDigest},    // pcrDigest
		{"quote_signature", 0, 0, attest.CheckQuoteSignature},
		{"pcr_3", 0, 0, attest.CheckQuoteDigest},
	}
}

// bytesOf returns a part of the evidence, to be changed in place.
func bytesOf(e *attest.Evidence, part string) []byte {
	return map[string][]byte{
		"hcl_report": e.HCLReport, "vcek": e.VCEKChain[0], "ak_certificate": e.AKCertificate, "ak_public": e.AKPublic,
		"key_public": e.KeyPublic, "certify": e.Certify, "certify_signature": e.CertifySignature,
		"quote": e.Quote, "quote_signature": e.QuoteSignature, "pcr_3": e.PCRs[3],
	}[part]
}

// TestEachByteOfGoodEvidenceCounts changes bytes of each range, and the right check says so.
func TestEachByteOfGoodEvidenceCounts(t *testing.T) {
	t.Parallel()
	for _, s := range spans() {
		x := newTrial(t)
		e := x.Evidence(t, x.challenge)
		e.PCRs = maps.Clone(e.PCRs)
		e.PCRs[3] = bytes.Clone(e.PCRs[3])
		e.KeyPublic = bytes.Clone(e.KeyPublic)
		b := bytesOf(e, s.part)
		to := s.to
		if to == 0 {
			to = len(b)
		}
		for _, i := range sample(s.from, to) {
			for _, bit := range []byte{0x01, 0x80} {
				b[i] ^= bit
				r := attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now)
				if r.Verified() || r.Status(s.check) != attest.Fail {
					t.Errorf("%s, byte %d of %d to %d, bit %#x: verdict %q, %s is %q", s.part, i, s.from, to, bit, r.Verdict(), s.check, r.Status(s.check))
				}
				b[i] ^= bit
			}
		}
		if err := attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now).Err(); err != nil {
			t.Fatalf("%s is not as it was: %v", s.part, err)
		}
	}
}

// sample chooses bytes of a range: its ends, and some between.
func sample(from, to int) []int {
	list := []int{from, to - 1}
	step := max(1, (to-from)/4)
	for i := from + step; i < to-1; i += step {
		list = append(list, i)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// other is a second good machine of the same maker, with another attestation key.
func other(t *testing.T, x *trial) *trial {
	t.Helper()
	y := newTrial(t)
	y.AK, y.Claims = x.w.keys.Other, at.Claims(&x.w.keys.Other.PublicKey)
	boot := at.Booted()
	boot.DBX = bootlog.SignatureList("revoked later")
	y.SetBoot(bootlog.Boot(boot), at.FirmwarePCRs)
	y.KeyPublic = at.Public(y.Key, at.BindingKeyAttributes&^(1<<10), nil)
	y.IDKeyDigest = attest.AzureIDKeyDigests()[0]
	if err := y.run(t).Err(); err != nil {
		t.Fatal(err)
	}
	return y
}

// members are the JSON members of a good bundle, with the check that fails if the member is another
// good machine's, and the one if it is missing: it has then not passed.
func members() map[string][2]string {
	return map[string][2]string{
		"nonce":             {attest.CheckBundleNonce, attest.CheckBundleNonce},
		"audience":          {attest.CheckBundleNonce, attest.CheckBundleNonce},
		"hcl_report":        {attest.CheckQuoteSignature, attest.CheckSNPSignature},
		"vcek_chain":        {attest.CheckSNPIdentity, attest.CheckSNPChain},
		"ak_certificate":    {attest.CheckAKCertificate, ""},
		"ak_public":         {attest.CheckAKPublic, ""},
		"key_public":        {attest.CheckKeyCertifyName, attest.CheckKeyPublic},
		"certify":           {attest.CheckKeyCertifySignature, attest.CheckKeyCertifyStructure},
		"certify_signature": {attest.CheckKeyCertifySignature, attest.CheckKeyCertifySignature},
		"quote":             {attest.CheckQuoteSignature, attest.CheckQuoteStructure},
		"quote_signature":   {attest.CheckQuoteSignature, attest.CheckQuoteSignature},
		"pcrs":              {attest.CheckQuoteDigest, attest.CheckQuoteDigest},
		"event_log":         {attest.CheckEventLogReplay, ""},
	}
}

func TestEachMemberOfABundleCounts(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	y := other(t, x)
	y.AMD = processor(t, "Milan, another chip")
	y.challenge = attest.Challenge{Nonce: bytes.Repeat([]byte{8}, 32), Audience: "https://other.example"}
	good, foreign := document(t, x), document(t, y)
	for name := range good {
		if _, ok := members()[name]; !ok && name != "format" {
			t.Errorf("member %s is in no row", name)
		}
	}
	for name, checks := range members() {
		for kind, row := range map[string]struct {
			value any
			check string
		}{
			"another machine's": {foreign[name], checks[0]},
			"missing":           {nil, checks[1]},
		} {
			changed := maps.Clone(good)
			if changed[name] = row.value; row.value == nil {
				delete(changed, name)
			}
			r := parsed(t, x, changed)
			if row.check == "" {
				if err := r.Err(); err != nil {
					t.Errorf("%s %s, which may be: %v", name, kind, err)
				}
				continue
			}
			if r.Verified() || r.Status(row.check) == attest.Pass {
				t.Errorf("%s %s: verdict %q, %s is %q", name, kind, r.Verdict(), row.check, r.Status(row.check))
			}
		}
	}
}

// document is the bundle of a machine by its members.
func document(t *testing.T, x *trial) map[string]any {
	t.Helper()
	data, err := x.Evidence(t, x.challenge).Encode()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// parsed sends the document through the parser and verifies it as x's.
func parsed(t *testing.T, x *trial, doc map[string]any) *attest.Result {
	t.Helper()
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	e, err := attest.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now)
}

// TestNoMemberHasASecondSpelling: a changed character of a member is refused by the parser or by
// the verifier.
func TestNoMemberHasASecondSpelling(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	good := document(t, x)
	for name, value := range good {
		text, ok := value.(string)
		if !ok || slices.Contains([]string{"format", "audience", "event_log"}, name) {
			continue // no bytes; and not all of a log is covered by digests, which is another matter
		}
		for i := 0; i < len(text); i += max(1, len(text)/9) {
			b := []byte(text)
			if b[i] = 'A'; text[i] == 'A' {
				b[i] = 'B'
			}
			if _, err := base64.RawURLEncoding.Strict().DecodeString(string(b)); err != nil {
				continue // the parser's own tests have these
			}
			changed := maps.Clone(good)
			changed[name] = string(b)
			if r := parsed(t, x, changed); r.Verified() {
				t.Errorf("%s: character %d may be changed", name, i)
			}
		}
	}
}

// TestTamperMatrix has a row for each way in which evidence is not what it seems that needs no
// broken signature: everything in it is signed by the key that signs such things.
func TestTamperMatrix(t *testing.T) {
	t.Parallel()
	for row, tt := range map[string]struct {
		check  string
		tamper func(t *testing.T, x *trial)
	}{
		"replayed nonce": {attest.CheckQuoteNonce, func(t *testing.T, x *trial) {
			old := x.Evidence(t, attest.Challenge{Nonce: bytes.Repeat([]byte{1}, 32), Audience: x.challenge.Audience})
			x.ChangeEvidence = func(e *attest.Evidence) { e.Quote, e.QuoteSignature = old.Quote, old.QuoteSignature }
		}},
		"replayed certify": {attest.CheckKeyCertifyNonce, func(t *testing.T, x *trial) {
			old := x.Evidence(t, attest.Challenge{Nonce: bytes.Repeat([]byte{1}, 32), Audience: x.challenge.Audience})
			x.ChangeEvidence = func(e *attest.Evidence) { e.Certify, e.CertifySignature = old.Certify, old.CertifySignature }
		}},
		"evidence for another audience": {attest.CheckQuoteNonce, func(t *testing.T, x *trial) {
			old := x.Evidence(t, attest.Challenge{Nonce: x.challenge.Nonce, Audience: "https://other.example"})
			x.ChangeEvidence = func(e *attest.Evidence) { *e = *old; e.Audience = x.challenge.Audience }
		}},
		"AK of another machine": {attest.CheckAKPublic, func(t *testing.T, x *trial) {
			theirs := other(t, x).Evidence(t, x.challenge)
			x.ChangeEvidence = func(e *attest.Evidence) { e.AKPublic = theirs.AKPublic }
		}},
		"AK of another machine, with what it signed": {attest.CheckQuoteSignature, func(t *testing.T, x *trial) {
			theirs := other(t, x).Evidence(t, x.challenge)
			x.ChangeEvidence = func(e *attest.Evidence) {
				report, vcek := e.HCLReport, e.VCEKChain
				*e = *theirs
				e.HCLReport, e.VCEKChain = report, vcek
			}
		}},
		"unrestricted AK": {attest.CheckAKPublic, func(_ *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.AKPublic = at.Public(&x.AK.PublicKey, at.BindingKeyAttributes, nil) }
		}},
		"unrestricted AK that signed": {attest.CheckQuoteSigner, func(_ *testing.T, x *trial) {
			area := at.Public(&x.AK.PublicKey, at.BindingKeyAttributes, nil)
			x.ChangeQuote = func(s *at.Statement) { s.Signer = at.Name(at.Handle(at.Endorsement), at.Name(area)) }
		}},
		"key without fixedTPM":            {attest.CheckKeyPublic, keyWithout(1 << 1)},
		"key without fixedParent":         {attest.CheckKeyPublic, keyWithout(1 << 4)},
		"key without sensitiveDataOrigin": {attest.CheckKeyPublic, keyWithout(1 << 5)},
		"key without fixedTPM, shown with it": {attest.CheckKeyCertifyName, func(t *testing.T, x *trial) {
			shown := bytes.Clone(x.KeyPublic)
			keyWithout(1<<1)(t, x)
			x.ChangeEvidence = func(e *attest.Evidence) { e.KeyPublic = shown }
		}},
		"other PCR set": {attest.CheckQuoteSelection, func(_ *testing.T, x *trial) {
			x.ChangeQuote = func(s *at.Statement) { s.Body = at.Quoted(0x000B, []byte{0x7f, 0, 0}, x.PCRs) }
			x.ChangeEvidence = func(e *attest.Evidence) { e.PCRs = maps.Clone(e.PCRs); delete(e.PCRs, 7) }
		}},
		"a resettable PCR alone": {attest.CheckQuoteSelection, func(_ *testing.T, x *trial) {
			x.PCRs = map[int][]byte{16: make([]byte, 32)}
			x.ChangeQuote = func(s *at.Statement) { s.Body = at.Quoted(0x000B, []byte{0, 0, 1}, x.PCRs) }
		}},
		"a bank that is switched off": {attest.CheckQuoteSelection, func(_ *testing.T, x *trial) {
			x.ChangeQuote = func(s *at.Statement) { s.Body = at.Quoted(0x000B, []byte{0, 0, 0}, nil) }
			x.ChangeEvidence = func(e *attest.Evidence) { e.PCRs = nil }
		}},
		"other PCR values": {attest.CheckQuoteDigest, func(_ *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.PCRs = maps.Clone(e.PCRs); e.PCRs[0] = e.PCRs[1] }
		}},
		"other runtime data": {attest.CheckHCLBinding, func(_ *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) {
				unwrap(e)
				e.RuntimeClaims = bytes.Replace(e.RuntimeClaims, []byte(at.VMID[:8]), []byte("00000000"), 1)
			}
		}},
		"wrong VCEK": {attest.CheckSNPIdentity, func(t *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.VCEKChain = processor(t, "Milan, another chip").VCEKChain() }
		}},
		"VCEK of an older firmware": {attest.CheckSNPIdentity, func(t *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.VCEKChain = processor(t, "Milan, older").VCEKChain() }
		}},
		"expired VCEK": {attest.CheckSNPChain, func(_ *testing.T, x *trial) { x.now = x.now.AddDate(9, 0, 0) }},
		"debug guest":  {attest.CheckSNPPolicy, func(_ *testing.T, x *trial) { x.ChangeReport = func(raw []byte) { raw[0x0A] |= 1 << 3 } }},
		"old TCB":      {attest.CheckSNPTCB, func(_ *testing.T, x *trial) { x.policy.MinTCB = 0xdc18000000000004 }},
		"other firmware": {attest.CheckSNPLaunch, func(_ *testing.T, x *trial) {
			x.IDKeyDigest = bytes.Repeat([]byte{0x77}, 48)
		}},
		"another boot": {attest.CheckQuoteCoherence, func(_ *testing.T, x *trial) {
			x.ChangeCertify = func(s *at.Statement) { s.Reset++ }
		}},
		"an hour between the statements": {attest.CheckQuoteCoherence, func(_ *testing.T, x *trial) {
			x.ChangeQuote = func(s *at.Statement) { s.Clock += uint64(time.Hour.Milliseconds()) }
		}},
		"a statement that no TPM made": {attest.CheckQuoteStructure, func(_ *testing.T, x *trial) {
			x.ChangeQuote = func(s *at.Statement) { s.Magic = 0xFF544348 }
		}},
		"a certify in the quote's place": {attest.CheckQuoteStructure, func(_ *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.Quote, e.QuoteSignature = e.Certify, e.CertifySignature }
		}},
	} {
		t.Run(row, func(t *testing.T) {
			x := newTrial(t)
			tt.tamper(t, x)
			if r := x.run(t); r.Verified() || r.Status(tt.check) != attest.Fail {
				t.Errorf("verdict %q, %s is %q: %v", r.Verdict(), tt.check, r.Status(tt.check), r.Err())
			}
		})
	}
}

// keyWithout takes an attribute from the binding key, before the TPM certifies it.
func keyWithout(attribute uint32) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) { x.KeyPublic = at.Public(x.Key, at.BindingKeyAttributes&^attribute, nil) }
}
