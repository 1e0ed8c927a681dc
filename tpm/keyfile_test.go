package tpm_test

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// Optional members of the format, as others may write them.
func explicit(tag int, content []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: content}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keyFileParts makes a key file's DER by hand, with encoding/asn1, so that our encoder is not
// compared with itself.
func keyFileParts(t testing.TB, members ...any) []byte {
	t.Helper()
	var content []byte
	for _, m := range members {
		content = append(content, marshal(t, m)...)
	}
	return marshal(t, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: content})
}

func asPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der})
}

func loadableOID() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3} }

// testAreas are a public area and something that looks like a private one.
func testAreas() (public, private []byte) {
	template := tpm.BindingKeyTemplate()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0xc5}, 256)})
	return tpm2.Marshal(tpm2.New2B(template)), append([]byte{0, 64}, bytes.Repeat([]byte{7}, 64)...)
}

func TestKeyFileGolden(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "openssl.pem"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := tpm.DecodeKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	if f.Parent != tpm2.TPMRHOwner || !f.EmptyAuth || len(f.Public) != 280 || len(f.Private) != 224 {
		t.Errorf("parent %x, empty auth %v, %d and %d bytes", uint32(f.Parent), f.EmptyAuth, len(f.Public), len(f.Private))
	}
}

func TestKeyFileEncoding(t *testing.T) {
	t.Parallel()
	public, private := testAreas()
	for _, f := range []*tpm.KeyFile{
		{Parent: tpm2.TPMRHOwner, EmptyAuth: true, Public: public, Private: private},
		{Parent: tpm.HandleSRK, EmptyAuth: true, Public: public, Private: private},
		{Parent: tpm.HandleSRK, Public: public, Private: private},
	} {
		want := asPEM(keyFileParts(t, loadableOID(), explicit(0, marshal(t, f.EmptyAuth)), int64(f.Parent), f.Public, f.Private))
		if got := f.Encode(); !bytes.Equal(got, want) {
			t.Errorf("encoded\n%s, want\n%s", got, want)
		}
		back, err := tpm.DecodeKeyFile(want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f, back); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDecodeKeyFileTakesWhatOthersWrite(t *testing.T) {
	t.Parallel()
	public, private := testAreas()
	boolean := func(v byte) []byte { return []byte{1, 1, v} }
	for _, tt := range []struct {
		name      string
		text      []byte
		emptyAuth bool
	}{
		{"TRUE as 01, as OpenSSL's provider writes it", asPEM(keyFileParts(t, loadableOID(), explicit(0, boolean(1)), 0x40000001, public, private)), true},
		{"FALSE for no password, as tpm2_encodeobject writes it", asPEM(keyFileParts(t, loadableOID(), explicit(0, boolean(0)), 0x40000001, public, private)), false},
		{"a description", asPEM(keyFileParts(t, loadableOID(), explicit(4, marshal(t, "a key")), 0x40000001, public, private)), false},
		{"rsaParent FALSE", asPEM(keyFileParts(t, loadableOID(), explicit(5, boolean(0)), 0x40000001, public, private)), false},
		{"DER", keyFileParts(t, loadableOID(), 0x81000001, public, private), false},
		{"base64 without the lines of PEM", []byte(base64.StdEncoding.EncodeToString(keyFileParts(t, loadableOID(), 0x81000001, public, private))), false},
		{"white space around", append([]byte("\n\n"), append(asPEM(keyFileParts(t, loadableOID(), 0x81000001, public, private)), " \r\n"...)...), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := tpm.DecodeKeyFile(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if f.EmptyAuth != tt.emptyAuth || !bytes.Equal(f.Public, public) || !bytes.Equal(f.Private, private) {
				t.Errorf("decoded %+v", f)
			}
		})
	}
}

// What people and tools put around a key is passed over, and the key is the one that was there.
func TestDecodeKeyFileFindsTheKeyInItsSurroundings(t *testing.T) {
	t.Parallel()
	public, private := testAreas()
	key := string(asPEM(keyFileParts(t, loadableOID(), 0x81000001, public, private)))
	other := func(label string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: bytes.Repeat([]byte{0x30}, 100)}))
	}
	for name, text := range map[string]string{
		"a comment before":          "# signing key of billing\n" + key,
		"a comment behind":          key + "\n# end\n",
		"openssl pkey -text":        key + "Private-Key: (TPM 2048 bit)\nModulus:\n    00:c5:c5\n",
		"a byte order mark":         "\ufeff" + key,
		"lines of Windows":          strings.ReplaceAll(key, "\n", "\r\n"),
		"indentation":               "  " + strings.ReplaceAll(key, "\n", "\n  "),
		"one line":                  strings.ReplaceAll(key, "\n", " "),
		"escaped newlines":          strings.ReplaceAll(key, "\n", `\n`),
		"a certificate behind":      key + other("CERTIFICATE"),
		"certificates before":       other("CERTIFICATE") + other("X509 CERTIFICATE") + key,
		"a certificate around it":   other("TRUSTED CERTIFICATE") + key + other("CERTIFICATE"),
		"its request":               key + other("CERTIFICATE REQUEST"),
		"its public key":            other("PUBLIC KEY") + key,
		"chains that make it large": strings.Repeat(other("CERTIFICATE"), 150) + key,
	} {
		f, err := tpm.DecodeKeyFile([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if f.Parent != tpm.HandleSRK || !bytes.Equal(f.Public, public) || !bytes.Equal(f.Private, private) {
			t.Errorf("%s: decoded %+v", name, f)
		}
	}
}

func TestDecodeKeyFileRefuses(t *testing.T) {
	t.Parallel()
	public, private := testAreas()
	good := keyFileParts(t, loadableOID(), 0x40000001, public, private)
	with := func(members ...any) []byte { return asPEM(keyFileParts(t, members...)) }
	block := func(label string) []byte { return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: good}) }
	for _, tt := range []struct {
		name string
		text []byte
		want string
	}{
		{"nothing", nil, "empty"},
		{"text", []byte("key:\n"), "neither PEM nor DER"},
		{"a certificate alone", block("CERTIFICATE"), `only "CERTIFICATE"`},
		{"a software key", block("PRIVATE KEY"), "outside of a TPM"},
		{"a software key of another format", block("RSA PRIVATE KEY"), `line 1: a block "RSA PRIVATE KEY"`},
		{"a software key behind it", append(asPEM(good), block("EC PRIVATE KEY")...), "outside of a TPM"},
		{"a key of a TPM 1.2", block("TSS KEY BLOB"), "TPM 1.2"},
		{"a key file of an older form", block("TSS2 KEY BLOB"), "given up"},
		{"something else beside it", append(block("EC PARAMETERS"), asPEM(good)...), `"EC PARAMETERS"`},
		{"two keys", append(asPEM(good), asPEM(good)...), "second block"},
		{"two keys, the first in text", append([]byte("key:\n"), append(asPEM(good), asPEM(good)...)...), "second block"},
		{"a key that is commented out behind it", append(asPEM(good), append([]byte("# "), asPEM(good)...)...), "commented out"},
		{"a certificate that is cut off behind it", append(asPEM(good), block("CERTIFICATE")[:100]...), "cut off"},
		{"a damaged key behind a certificate", append(block("CERTIFICATE"), with(loadableOID(), 0x40000001, public)...), "in line"},
		{"PEM headers", pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: good}), "headers"},
		{"a cut file", asPEM(good)[:200], "damaged"},
		{"cut DER", asPEM(good[:len(good)-1]), "not a TPMKey"},
		{"bytes after the structure", asPEM(append(bytes.Clone(good), 0)), "not a TPMKey"},
		{"an importable key", with(asn1.ObjectIdentifier{2, 23, 133, 10, 1, 4}, 0x40000001, public, private), "only loadable keys"},
		{"a policy", with(loadableOID(), explicit(1, marshal(t, []int{1})), 0x40000001, public, private), "policy"},
		{"a secret", with(loadableOID(), explicit(2, marshal(t, []byte("s"))), 0x40000001, public, private), "secret"},
		{"alternative policies", with(loadableOID(), explicit(3, marshal(t, []int{1})), 0x40000001, public, private), "policies"},
		{"an RSA primary as parent", with(loadableOID(), explicit(5, []byte{1, 1, 255}), 0x40000001, public, private), "RSA primary"},
		{"an unknown option", with(loadableOID(), explicit(6, []byte{1, 1, 255}), 0x40000001, public, private), "parent"},
		{"options out of order", with(loadableOID(), explicit(4, marshal(t, "d")), explicit(0, []byte{1, 1, 255}), 0x40000001, public, private), "parent"},
		{"a boolean of two bytes", with(loadableOID(), explicit(0, []byte{1, 2, 0, 255}), 0x40000001, public, private), "BOOLEAN"},
		{"a negative parent", with(loadableOID(), -1, public, private), "parent"},
		{"a parent of 33 bits", with(loadableOID(), 1<<32, public, private), "parent"},
		{"no private area", with(loadableOID(), 0x40000001, public), "does not end with"},
		{"a third area", with(loadableOID(), 0x40000001, public, private, private), "does not end with"},
		{"an empty private area", with(loadableOID(), 0x40000001, public, []byte{0, 0}), "private area"},
		{"a private area longer than it says", with(loadableOID(), 0x40000001, public, append(bytes.Clone(private), 0)), "private area"},
		{"a public area shorter than it says", with(loadableOID(), 0x40000001, public[:100], private), "public area"},
		{"a public area that is none", with(loadableOID(), 0x40000001, private, private), "public area"},
		{"a megabyte", append(asPEM(good), bytes.Repeat([]byte("\n"), 1<<20)...), "more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := tpm.DecodeKeyFile(tt.text)
			if err == nil {
				t.Fatalf("decoded %+v", f)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v does not say %q", err, tt.want)
			}
		})
	}
}

// tpm2_encodeobject says of a key with a password that it has none.
func TestWhetherAKeyHasAPasswordTheTPMKnows(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	value := secret.New("opensesame")
	for _, tt := range []struct {
		name    string
		made    tpm.KeyOptions
		claim   bool // that it has none
		given   secret.String
		refused string
	}{
		{"claimed to have none, given", tpm.KeyOptions{AuthValue: value}, true, value, ""},
		{"claimed to have none, not given", tpm.KeyOptions{AuthValue: value}, true, secret.String{}, "none was given"},
		{"has none, claimed to have one", tpm.KeyOptions{}, false, secret.String{}, ""},
		{"has none, given", tpm.KeyOptions{}, true, value, "made without one"},
		{"has a policy that asks for none, given", tpm.KeyOptions{PCRs: tpm.PCRSelection{PCRs: []int{7}}}, true, value, "made without one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, err := on.CreateKey(t.Context(), tt.made)
			if err != nil {
				t.Fatal(err)
			}
			file.EmptyAuth = tt.claim
			key, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{AuthValue: tt.given})
			if err == nil {
				defer key.Close()
				_, err = key.Sign(t.Context(), tpm2.TPMAlgRSASSA, crypto.SHA256, make([]byte, 32))
			}
			if tt.refused == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			fails(t, err, tpm.ErrAuthValue)
			if err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("%v does not say %q", err, tt.refused)
			}
		})
	}
}

// FuzzDecodeKeyFile: what is taken is written in one way only, and read back as the same.
func FuzzDecodeKeyFile(f *testing.F) {
	public, private := testAreas()
	f.Add((&tpm.KeyFile{Parent: tpm.HandleSRK, EmptyAuth: true, Public: public, Private: private}).Encode())
	f.Add(asPEM(keyFileParts(f, loadableOID(), explicit(0, []byte{1, 1, 1}), explicit(4, marshal(f, "d")), 0x40000001, public, private)))
	f.Add(asPEM(keyFileParts(f, loadableOID(), explicit(5, []byte{1, 1, 0}), 0x40000001, private, public)))
	value := tpm.PolicyCommand{Code: tpm2.TPMCCPolicyAuthValue}
	for _, policy := range [][]tpm.PolicyCommand{
		{pcrPolicy(7, tpm2.TPMAlgSHA256, 0, 8, 0)},
		{pcrPolicy(7, tpm2.TPMAlgSHA384, 0x81, 0, 0x80), value},
		{value},
		{pcrPolicy(7, 0, 0, 8, 0)},
		{pcrPolicy(7, tpm2.TPMAlgSHA256, 0, 8, 0, 0)},
		{{Code: tpm2.TPMCCPolicyPCR, Parameters: append(pcrPolicy(7, tpm2.TPMAlgSHA256).Parameters[:34], 0, 0, 0, 2, 0, 0x0b, 0, 0, 0x0b, 0)}},
		{{Code: tpm2.TPMCCPolicyOR}},
	} {
		f.Add((&tpm.KeyFile{Parent: tpm.HandleSRK, Policy: policy, Public: public, Private: private}).Encode())
	}
	if text, err := os.ReadFile(filepath.Join("testdata", "openssl.pem")); err == nil {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := tpm.DecodeKeyFile(text)
		if err != nil {
			return
		}
		encoded := first.Encode()
		second, err := tpm.DecodeKeyFile(encoded)
		if err != nil {
			t.Fatalf("our own encoding is refused: %v", err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Error(diff)
		}
		if !bytes.Equal(second.Encode(), encoded) {
			t.Error("the encoding is not stable")
		}
	})
}
