package tpm_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/judge"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file lets tpm2-tools and OpenSSL's tpm2 provider judge the key file.

// tools runs a program with the TPM at device, through this test binary as relay.
func tools(t *testing.T, device, dir string) func(name string, args ...string) {
	t.Helper()
	return func(name string, args ...string) {
		t.Helper()
		tcti := "cmd:" + os.Args[0]
		cmd := exec.CommandContext(t.Context(), name, args...) // #nosec G204 -- the judge
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), relayTo+"="+device, "TPM2TOOLS_TCTI="+tcti, "TPM2OPENSSL_TCTI="+tcti)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
}

func TestTPM2ToolsLoadTheKeyFile(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"tpm2_createprimary", "tpm2_load", "tpm2_sign"} {
		judge.Tool(t, tool)
	}
	device := tpmtest.Bare(t).Device()
	dir := t.TempDir()
	file := createFile(t, device, dir)
	run := tools(t, device, dir)
	run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "root.ctx",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
	run("tpm2_flushcontext", "-t")
	run("tpm2_load", "-C", "root.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
	run("tpm2_flushcontext", "-t")
	run("tpm2_sign", "-c", "key.ctx", "-g", "sha256", "-s", "rsassa", "-f", "plain", "-o", "sig", "message")
	checkFileSignature(t, file, filepath.Join(dir, "sig"))
}

func TestOpenSSLSignsWithTheKeyFile(t *testing.T) {
	t.Parallel()
	openssl := judge.OpenSSLProvider(t, "tpm2")
	for name, device := range map[string]func(testing.TB) string{
		"under the derived storage root":    func(t testing.TB) string { return tpmtest.Bare(t).Device() },
		"under the persistent storage root": func(t testing.TB) string { return tpmtest.Simulator(t).Device() },
	} {
		t.Run(name, func(t *testing.T) {
			device, dir := device(t), t.TempDir()
			file := createFile(t, device, dir)
			tools(t, device, dir)(openssl, "pkeyutl", "-provider", "tpm2", "-provider", "base", "-sign", "-inkey", "key.pem",
				"-rawin", "-digest", "sha256", "-in", "message", "-out", "sig")
			checkFileSignature(t, file, filepath.Join(dir, "sig"))
		})
	}
}

// createFile makes a key and writes its file, whole and in the parts that tpm2_load takes, and a message.
func createFile(t *testing.T, device, dir string) *tpm.KeyFile {
	t.Helper()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"key.pem": file.Encode(), "key.pub": file.Public, "key.priv": file.Private, "message": []byte("message"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func checkFileSignature(t *testing.T, file *tpm.KeyFile, path string) {
	t.Helper()
	sig, err := os.ReadFile(path) // #nosec G304 -- the test's own
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](file.Public[2:])
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	if err := rsa.VerifyPKCS1v15(key.(*rsa.PublicKey), crypto.SHA256, digest[:], sig); err != nil {
		t.Error(err)
	}
}

func TestAKeyMadeByOpenSSLIsRefusedForItsAttributes(t *testing.T) {
	t.Parallel()
	openssl := judge.OpenSSLProvider(t, "tpm2")
	device, dir := tpmtest.Bare(t).Device(), t.TempDir()
	tools(t, device, dir)(openssl, "genpkey", "-provider", "tpm2", "-provider", "default", "-algorithm", "RSA", "-pkeyopt", "bits:2048", "-out", "key.pem")
	text, err := os.ReadFile(filepath.Join(dir, "key.pem")) // #nosec G304 -- the test's own
	if err != nil {
		t.Fatal(err)
	}
	file, err := tpm.DecodeKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	on := tpmtest.Connect(t, device)
	_, err = on.LoadKey(t.Context(), file, tpm.LoadOptions{SignOnly: true})
	fails(t, err, tpm.ErrAttributes) // it signs and decrypts
	key := tpmtest.LoadKey(t, on, file)
	if len(key.Deviations()) == 0 {
		t.Error("a key that signs and decrypts is not reported")
	}
	checkSigns(t, key)
}
