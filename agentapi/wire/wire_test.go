package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/agentapi/wire"
)

func TestSecretPrintsAsNothing(t *testing.T) {
	const value = "the-secret-itself"
	response := wire.TokenResponse{AccessToken: wire.NewSecret(value)}
	imds := wire.IMDSToken{AccessToken: wire.NewSecret(value)}
	type wrapped struct {
		Inner      *wire.TokenResponse
		List       []wire.Secret
		unexported wire.TokenResponse
		pointer    *wire.TokenResponse
	}
	things := map[string]any{
		"secret": response.AccessToken, "response": response, "pointer": &response, "IMDS response": imds,
		"wrapped": wrapped{&response, []wire.Secret{response.AccessToken}, response, &response},
		"map":     map[string]wire.Secret{"k": response.AccessToken},
	}
	for name, thing := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v"} {
			if printed := fmt.Sprintf(verb, thing, thing); strings.Contains(printed, value) || strings.Contains(printed, fmt.Sprintf("%x", value)) {
				t.Errorf("%s printed with %s: %s", name, verb, printed)
			}
		}
		if text := fmt.Errorf("about %v", thing).Error(); strings.Contains(text, value) {
			t.Errorf("%s in an error: %s", name, text)
		}
	}
	var log bytes.Buffer
	for _, logger := range []*slog.Logger{slog.New(slog.NewJSONHandler(&log, nil)), slog.New(slog.NewTextHandler(&log, nil))} {
		logger.Info("a token", "response", response, "pointer", &response, "secret", response.AccessToken)
	}
	if strings.Contains(log.String(), value) {
		t.Errorf("logged: %s", log.String())
	}
	if response.AccessToken.Reveal() != value {
		t.Error("Reveal does not reveal")
	}
}

func TestSecretJSON(t *testing.T) {
	var response wire.TokenResponse
	if err := json.Unmarshal([]byte(`{"access_token":"eyJ0\u002d"}`), &response); err != nil || response.AccessToken.Reveal() != "eyJ0-" {
		t.Errorf("got %q, %v", response.AccessToken.Reveal(), err)
	}
	if err := json.Unmarshal([]byte(`{"access_token":{"secret":"value"}}`), &response); err == nil || strings.Contains(err.Error(), "value") {
		t.Errorf("an object for a token: %v", err)
	}
	if !(wire.Secret{}).IsZero() || !wire.NewSecret("").IsZero() || wire.NewSecret("x").IsZero() {
		t.Error("IsZero")
	}
}

func TestTokenResponseJSON(t *testing.T) {
	response := wire.TokenResponse{
		AccessToken: wire.NewSecret("eyJ0"), TokenType: "Bearer", ExpiresIn: 3599, ExpiresOn: 1790000000, NotBefore: 1789996400,
		Resource: "https://vault.azure.net", Identity: "vm", ClientID: "8b0c3d0e-0000-4000-8000-00000000c1d1",
		Credential: "managed_identity", Bound: true, Strength: "attested",
		Binding: &wire.Binding{Thumbprint: "abc", TLSVersion: "TLS 1.3", SignatureAlgorithm: "rsa_pss_rsae_sha256"},
	}
	const want = `{"access_token":"eyJ0","token_type":"Bearer","expires_in":3599,"expires_on":1790000000,"not_before":1789996400,` +
		`"resource":"https://vault.azure.net","identity":"vm","client_id":"8b0c3d0e-0000-4000-8000-00000000c1d1",` +
		`"credential":"managed_identity","bound":true,"strength":"attested","fallback":false,` +
		`"binding":{"thumbprint":"abc","tls_version":"TLS 1.3","signature_algorithm":"rsa_pss_rsae_sha256"}}`
	got, err := json.Marshal(response)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if response.Expiry().Unix() != response.ExpiresOn {
		t.Errorf("expiry %v", response.Expiry())
	}
}

func TestIMDSTokenHasOnlyStrings(t *testing.T) {
	encoded, err := json.Marshal(wire.IMDSToken{})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(encoded, &members); err != nil {
		t.Fatal(err)
	}
	for name, value := range members {
		if _, ok := value.(string); !ok {
			t.Errorf("%s is a %T", name, value)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, code := range wire.Codes() {
		p := wire.NewProblem(code, "what happened")
		if p.Code != code || p.Detail != "what happened" || p.Title == "" || p.Status != code.Status() || !strings.HasSuffix(p.Type, "#"+string(code)) {
			t.Errorf("%s: %+v", code, p)
		}
		if http.StatusText(p.Status) == "" || p.Status < 400 {
			t.Errorf("%s: status %d", code, p.Status)
		}
		if code.RefusedByPolicy() && p.Status != http.StatusForbidden {
			t.Errorf("%s: a refusal by policy with status %d", code, p.Status)
		}
	}
	if p := wire.NewProblem("no-such-code", ""); p.Code != wire.CodeInternal || p.Status != http.StatusInternalServerError {
		t.Errorf("an unknown code became %+v", p)
	}
}

// openAPI is the part of the document that this test compares.
type openAPI struct {
	Components struct {
		Schemas map[string]struct {
			Required   []string
			Properties map[string]any
			Enum       []string
			XStatus    map[string]int `yaml:"x-status"`
		}
	}
}

func readOpenAPI() (doc openAPI, err error) {
	text, err := os.ReadFile("openapi.yaml")
	return doc, errors.Join(err, yaml.Unmarshal(text, &doc))
}

func TestOpenAPICodes(t *testing.T) {
	doc, err := readOpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	documented := doc.Components.Schemas["Code"]
	var codes []string
	for _, code := range wire.Codes() {
		codes = append(codes, string(code))
		if got := documented.XStatus[string(code)]; got != code.Status() {
			t.Errorf("%s is documented as %d, is %d", code, got, code.Status())
		}
	}
	if !slices.Equal(documented.Enum, codes) || len(documented.XStatus) != len(codes) {
		t.Errorf("documented codes\n%q\nwant\n%q", documented.Enum, codes)
	}
}

func TestOpenAPIStrengths(t *testing.T) {
	doc, err := readOpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	if got := doc.Components.Schemas["Strength"].Enum; !slices.Equal(got, wire.Strengths()) {
		t.Errorf("documented are the strengths %q, want %q", got, wire.Strengths())
	}
}

func TestOpenAPISchemas(t *testing.T) {
	doc, err := readOpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	structs := []any{
		wire.TokenResponse{}, wire.Binding{}, wire.IMDSToken{}, wire.IMDSError{}, wire.Problem{}, wire.Status{}, wire.TPMStatus{},
		wire.KeyStatus{}, wire.IdentityStatus{}, wire.CertificateStatus{}, wire.TLSStatus{}, wire.AttestationStatus{},
		wire.CredentialStatus{}, wire.Identity{}, wire.Capabilities{}, wire.Capability{}, wire.Form{}, wire.Endpoint{},
		wire.BoundCertificate{}, wire.SignRequest{}, wire.SignResponse{}, wire.Health{}, wire.AuditStatus{},
	}
	for _, s := range structs {
		typ := reflect.TypeOf(s)
		schema, ok := doc.Components.Schemas[typ.Name()]
		if !ok {
			t.Errorf("%s is not documented", typ.Name())
			continue
		}
		var required []string
		for i := range typ.NumField() {
			name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if _, ok := schema.Properties[name]; !ok {
				t.Errorf("%s.%s is not documented", typ.Name(), name)
			}
			if options == "" {
				required = append(required, name)
			}
		}
		if len(schema.Properties) != typ.NumField() {
			t.Errorf("%s: %d members are documented, %d exist", typ.Name(), len(schema.Properties), typ.NumField())
		}
		slices.Sort(required)
		slices.Sort(schema.Required)
		if !slices.Equal(required, schema.Required) {
			t.Errorf("%s: documented as required %q, always there are %q", typ.Name(), schema.Required, required)
		}
	}
}
