package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file has tpm2-tools and OpenSSL's tpm2 provider read the key file.

// A way is how a kind of key may sign, in the words of those who sign.
type way struct {
	scheme string // tpm2_sign -s
	hash   crypto.Hash
	pkey   []string // openssl pkeyutl
	sigopt []string // openssl req
}

func (w way) digest() string { return strings.ToLower(strings.ReplaceAll(w.hash.String(), "-", "")) }

// waysOf lists those ways in which TLS and certificates need a kind of key.
func waysOf(a tpm.Algorithm) []way {
	switch a {
	case tpm.ECDSAP256:
		return []way{{scheme: "ecdsa", hash: crypto.SHA256}}
	case tpm.ECDSAP384:
		return []way{{scheme: "ecdsa", hash: crypto.SHA384}}
	}
	return []way{
		{scheme: "rsassa", hash: crypto.SHA256},
		{scheme: "rsapss", hash: crypto.SHA256, pkey: []string{"-pkeyopt", "rsa_padding_mode:pss"}, sigopt: []string{"-sigopt", "rsa_padding_mode:pss"}},
	}
}

const message = "message"

// verify checks a signature over the message.
func (w way) verify(public crypto.PublicKey, sig []byte) error {
	h := w.hash.New()
	h.Write([]byte(message))
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, h.Sum(nil), sig) {
			return errors.New("the ECDSA signature is wrong")
		}
		return nil
	case *rsa.PublicKey:
		if w.scheme == "rsapss" {
			return rsa.VerifyPSS(key, w.hash, h.Sum(nil), sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(key, w.hash, h.Sum(nil), sig)
	}
	return fmt.Errorf("a %T", public)
}

// tpm2Tools looks for the programs of tpm2-tools that all these tests use.
func tpm2Tools(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"tpm2_createprimary", "tpm2_load", "tpm2_readpublic", "tpm2_sign", "tpm2_startauthsession"} {
		tooltest.Tool(t, tool)
	}
}

// ourKey makes a key and writes its file, whole and in the parts that tpm2_load takes, and the
// message.
func ourKey(t testing.TB, w *tpmtest.Tools, device string, options tpm.KeyOptions) *tpm.KeyFile {
	t.Helper()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	file, err := on.CreateKey(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(t, "key.pem", file.Encode())
	w.Write(t, "key.pub", file.Public)
	w.Write(t, "key.priv", file.Private)
	w.Write(t, "message", []byte(message))
	return file
}

func publicKeyOf(t testing.TB, file *tpm.KeyFile) crypto.PublicKey {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](file.Public[2:])
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// loadOurKey has tpm2-tools load the key into key.ctx.
func loadOurKey(t testing.TB, w *tpmtest.Tools, file *tpm.KeyFile) {
	t.Helper()
	parent := fmt.Sprintf("0x%x", uint32(file.Parent))
	if file.Parent == tpm2.TPMRHOwner {
		w.CreateRoot(t)
		parent = "root.ctx"
	}
	w.Run(t, "tpm2_load", "-Q", "-C", parent, "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
}

func TestOurKeyFilesSignThroughOtherPrograms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		machine    func(testing.TB) tpmtest.Machine
		algorithms []tpm.Algorithm
	}{
		{"under the derived storage root", tpmtest.BareMachine, []tpm.Algorithm{tpm.RSA2048, tpm.ECDSAP256, tpm.ECDSAP384}},
		{"under the persistent storage root", tpmtest.SimulatorMachine, []tpm.Algorithm{tpm.RSA2048, tpm.ECDSAP256}},
		{"in swtpm", tpmtest.SwtpmMachine, tpm.Algorithms()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			machine := tt.machine(t)
			for _, a := range tt.algorithms {
				t.Run(string(a), func(t *testing.T) {
					w := tpmtest.NewTools(t, machine)
					file := ourKey(t, w, machine.Device(), tpm.KeyOptions{Algorithm: a})
					t.Run("with OpenSSL", func(t *testing.T) { signWithOpenSSL(t, w, file, waysOf(a)) })
					t.Run("with tpm2-tools", func(t *testing.T) { signWithTPM2Tools(t, w, file, waysOf(a)) })
				})
			}
		})
	}
}

func signWithOpenSSL(t *testing.T, w *tpmtest.Tools, file *tpm.KeyFile, ways []way) {
	openssl := tooltest.OpenSSLProvider(t, "tpm2")
	for _, way := range ways {
		w.Run(t, openssl, slices.Concat([]string{"pkeyutl", "-provider", "tpm2", "-provider", "base", "-sign", "-inkey", "key.pem",
			"-rawin", "-digest", way.digest(), "-in", "message", "-out", "sig"}, way.pkey)...)
		if err := way.verify(publicKeyOf(t, file), w.Read(t, "sig")); err != nil {
			t.Errorf("%s: %v", way.scheme, err)
		}
		w.Run(t, openssl, slices.Concat([]string{"req", "-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2",
			"-new", "-key", "key.pem", "-" + way.digest(), "-subj", "/CN=vm", "-out", "csr.pem"}, way.sigopt)...)
		w.Run(t, openssl, "req", "-verify", "-noout", "-in", "csr.pem")
		checkRequest(t, w.Read(t, "csr.pem"), publicKeyOf(t, file))
	}
}

// checkRequest has Go check a certificate request.
func checkRequest(t *testing.T, text []byte, public crypto.PublicKey) {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("no request: %s", text)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Error(err)
	}
	if !csr.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
		t.Error("the request is for another key")
	}
}

func signWithTPM2Tools(t *testing.T, w *tpmtest.Tools, file *tpm.KeyFile, ways []way) {
	tpm2Tools(t)
	loadOurKey(t, w, file)
	checkPrinted(t, w, file, "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign")
	for _, way := range ways {
		w.Run(t, "tpm2_sign", "-Q", "-c", "key.ctx", "-g", way.digest(), "-s", way.scheme, "-f", "plain", "-o", "sig", "message")
		if err := way.verify(publicKeyOf(t, file), w.Read(t, "sig")); err != nil {
			t.Errorf("%s: %v", way.scheme, err)
		}
	}
}

// checkPrinted lets tpm2_readpublic describe the loaded key.
func checkPrinted(t *testing.T, w *tpmtest.Tools, file *tpm.KeyFile, attributes string) (said string) {
	t.Helper()
	said = w.Run(t, "tpm2_readpublic", "-c", "key.ctx")
	name, err := file.Name()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"name: " + hex.EncodeToString(name),
		"  value: " + attributes,
		"scheme:\n  value: null", // it may choose
	} {
		if !strings.Contains(said+"\n", line+"\n") {
			t.Errorf("tpm2_readpublic does not say %q:\n%s", line, said)
		}
	}
	return said
}

func TestTPM2ToolsUseAKeyThatIsBoundToPCRs(t *testing.T) {
	t.Parallel()
	tpm2Tools(t)
	v := tpmtest.Bare(t)
	extend := "7:sha256=" + strings.Repeat("5a", 32) + ",sha384=" + strings.Repeat("a5", 48)
	for _, tt := range []struct {
		name    string
		options tpm.KeyOptions
		list    string
	}{
		{"one", tpm.KeyOptions{PCRs: tpm.PCRSelection{PCRs: []int{7}}}, "sha256:7"},
		{"several, of an elliptic curve key", tpm.KeyOptions{Algorithm: tpm.ECDSAP256, PCRs: tpm.PCRSelection{PCRs: []int{11, 0, 7}}}, "sha256:0,7,11"},
		{"of the SHA-384 bank", tpm.KeyOptions{PCRs: tpm.PCRSelection{Bank: crypto.SHA384, PCRs: []int{7}}}, "sha384:7"},
		{"and has a password", tpm.KeyOptions{PCRs: tpm.PCRSelection{PCRs: []int{7}}, AuthValue: secret.New("opensesame")}, "sha256:7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := tpmtest.NewTools(t, v)
			w.Run(t, "tpm2_pcrextend", extend) // so that it is not zero
			file := ourKey(t, w, v.Device(), tt.options)
			loadOurKey(t, w, file)
			password := tt.options.AuthValue.Reveal()
			sign := []string{"-Q", "-c", "key.ctx", "-g", "sha256", "-f", "plain", "-o", "sig", "message"}

			authorization := satisfyPCRs(t, w, tt.list, password)
			said := checkPrinted(t, w, file, "fixedtpm|fixedparent|sensitivedataorigin|noda|sign")
			if policy := "authorization policy: " + hex.EncodeToString(w.Read(t, "policy")); !strings.Contains(strings.ToLower(said), policy) {
				t.Errorf("the key's policy is not what tpm2-tools make, %q:\n%s", policy, said)
			}
			w.Run(t, "tpm2_sign", append(sign, "-p", authorization)...)
			way := waysOf(tt.options.Algorithm)[0]
			if err := way.verify(publicKeyOf(t, file), w.Read(t, "sig")); err != nil {
				t.Error(err)
			}

			w.Fail(t, "tpm2_sign", sign...) // no policy
			if password != "" {
				w.Fail(t, "tpm2_sign", append(sign, "-p", password)...)                            // no policy, but the password
				w.Fail(t, "tpm2_sign", append(sign, "-p", satisfyPCRs(t, w, tt.list, "other"))...) // another password
			}
			w.Run(t, "tpm2_pcrextend", extend)
			w.Fail(t, "tpm2_sign", append(sign, "-p", satisfyPCRs(t, w, tt.list, password))...)
		})
	}
}

// satisfyPCRs makes a policy session in which the present values of PCRs were found, and notes the
// policy's digest. What it returns authorizes with it.
func satisfyPCRs(t *testing.T, w *tpmtest.Tools, list, password string) string {
	t.Helper()
	w.Run(t, "tpm2_startauthsession", "-Q", "--policy-session", "-S", "session.ctx")
	w.Run(t, "tpm2_policypcr", "-Q", "-S", "session.ctx", "-l", list, "-L", "policy")
	if password == "" {
		return "session:session.ctx"
	}
	w.Run(t, "tpm2_policyauthvalue", "-Q", "-S", "session.ctx", "-L", "policy")
	return "session:session.ctx+" + password
}

func TestOtherProgramsUseAKeyWithAPassword(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	w := tpmtest.NewTools(t, v)
	file := ourKey(t, w, v.Device(), tpm.KeyOptions{AuthValue: secret.New("opensesame")})
	way := waysOf(tpm.RSA2048)[0]
	passwords := map[string]bool{"opensesame": true, "opensesam": false, "": false}
	uses := map[string]func(t *testing.T, password string) (program string, args []string){
		"with tpm2-tools": func(t *testing.T, password string) (string, []string) {
			tpm2Tools(t)
			loadOurKey(t, w, file)
			return "tpm2_sign", []string{"-Q", "-c", "key.ctx", "-g", "sha256", "-s", "rsassa", "-f", "plain", "-p", password, "-o", "sig", "message"}
		},
		"with OpenSSL": func(t *testing.T, password string) (string, []string) {
			return tooltest.OpenSSLProvider(t, "tpm2"), []string{"pkeyutl", "-provider", "tpm2", "-provider", "base", "-sign", "-inkey", "key.pem",
				"-passin", "pass:" + password, "-rawin", "-digest", "sha256", "-in", "message", "-out", "sig"}
		},
	}
	for _, name := range slices.Sorted(maps.Keys(uses)) {
		t.Run(name, func(t *testing.T) {
			for password, right := range passwords {
				program, args := uses[name](t, password)
				if !right {
					w.Fail(t, program, args...)
					continue
				}
				w.Run(t, program, args...)
				if err := way.verify(publicKeyOf(t, file), w.Read(t, "sig")); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestAKeyMadeByOpenSSLIsRefusedForItsAttributes(t *testing.T) {
	t.Parallel()
	openssl := tooltest.OpenSSLProvider(t, "tpm2")
	v := tpmtest.Bare(t)
	w := tpmtest.NewTools(t, v)
	w.Run(t, openssl, "genpkey", "-provider", "tpm2", "-provider", "default", "-algorithm", "RSA", "-pkeyopt", "bits:2048", "-out", "key.pem")
	file, err := tpm.DecodeKeyFile(w.Read(t, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	on := tpmtest.Connect(t, v.Device())
	_, err = on.LoadKey(t.Context(), file, tpm.LoadOptions{SignOnly: true})
	fails(t, err, tpm.ErrAttributes) // it signs and decrypts
	key := tpmtest.LoadKey(t, on, file)
	if len(key.Deviations()) == 0 {
		t.Error("a key that signs and decrypts is not reported")
	}
	checkSigns(t, key)
}

// OpenSSL's provider does not know the optional member of a key file that holds a policy, and takes
// the whole file for something else.
func TestOpenSSLDoesNotReadAKeyFileWithAPolicy(t *testing.T) {
	t.Parallel()
	openssl := tooltest.OpenSSLProvider(t, "tpm2")
	value := secret.New("opensesame")
	for _, tt := range []struct {
		name    string
		options tpm.KeyOptions
		reads   bool
	}{
		{"without anything", tpm.KeyOptions{}, true},
		{"without anything, P-256", tpm.KeyOptions{Algorithm: tpm.ECDSAP256}, true},
		{"with an authorization value", tpm.KeyOptions{AuthValue: value}, true},
		{"bound to PCRs", tpm.KeyOptions{PCRs: selection(7)}, false},
		{"bound to PCRs, P-256", tpm.KeyOptions{Algorithm: tpm.ECDSAP256, PCRs: selection(0, 7)}, false},
		{"bound to PCRs of the other bank", tpm.KeyOptions{PCRs: tpm.PCRSelection{Bank: crypto.SHA384, PCRs: []int{7}}}, false},
		{"bound to PCRs, with an authorization value", tpm.KeyOptions{PCRs: selection(7), AuthValue: value}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := tpmtest.Swtpm(t)
			w := tpmtest.NewTools(t, m)
			ourKey(t, w, m.Device(), tt.options)
			args := []string{"pkey", "-provider", "tpm2", "-provider", "base", "-in", "key.pem", "-passin", "pass:" + value.Reveal(), "-pubout"}
			if tt.reads {
				if out := w.Run(t, openssl, args...); !strings.Contains(out, "BEGIN PUBLIC KEY") {
					t.Errorf("openssl says %s", out)
				}
				return
			}
			if out := w.Fail(t, openssl, args...); strings.Contains(out, "BEGIN PUBLIC KEY") {
				t.Errorf("openssl says %s", out)
			}
		})
	}
}
