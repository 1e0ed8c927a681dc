package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
)

// What is printed is read as the same configuration again, so nothing is left out
// and no default is another.
func TestAConfigurationSurvivesBeingPrinted(t *testing.T) {
	const everything = `
tpm: tcp:127.0.0.1:2321
tpm_owner_credential: owner
socket: /run/a.sock
imds_endpoint: http://127.0.0.1:80
ca_file: /etc/ca.pem
trusted_hosts: {mtls: [], attestation: [".attest.azure.net"]}
proxy: {url: "http://proxy.example:3128", credential: proxy, bypass: [intranet.example, .corp.example, 10.0.0.1]}
attestation: {provider: none, amd_roots: /a, vtpm_roots: /b, tdx: {collateral: /c, roots: /d}}
binding_key: {pcrs: [0, 7], pcr_bank: sha384, auth_credential: key, persistent_handle: 0x81010000}
admins: {users: [ops], groups: ["4"]}
rules: [{name: r, users: ["1000"], groups: [g], identities: [vm, app], resources: ["*"], types: [bearer, mtls_pop], fresh: true, hosts: [vault.example, .vault.example, "h.example:8443"], sign: true, sign_hosts_only: true}]
identities:
  - {name: vm, managed_identity: {}, min_strength: tpm}
  - name: app
    application:
      tenant: contoso.com
      client_id: c0ffee00-0000-4000-8000-0000000000aa
      region: auto
      credentials:
        - {source: certificate, key: app}
        - {source: managed_identity, managed_identity: {}}
        - {source: oidc, identity: vm, bound: prefer}
        - {source: assertion_file, path: /run/a}
`
	for name, file := range map[string]string{"every setting": everything, "few settings": good} {
		t.Run(name, func(t *testing.T) {
			want, err := config.Parse("test.yaml", []byte(file))
			if err != nil {
				t.Fatal(err)
			}
			text, err := want.YAML()
			if err != nil {
				t.Fatal(err)
			}
			got, err := config.Parse("printed.yaml", text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("printed and read (-want +got):\n%s\n%s", diff, text)
			}
		})
	}
	cfg, err := config.Parse("test.yaml", []byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	text, err := cfg.YAML()
	if err != nil || !strings.Contains(string(text), "persistent_handle: 0x81010000") {
		t.Errorf("a handle is not printed as one: %v\n%s", err, text)
	}
}
