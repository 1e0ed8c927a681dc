package config_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const preface = `# Configuration

The agent reads one YAML file, /etc/keyagent/config.yaml unless ` + "`--config`" + ` or ` + "`KEYAGENT_CONFIG`" + ` names another. The file,
and each directory that leads to it, must belong to root or to the agent's user and must not be writable by anybody else; a directory
on the way may be if it is sticky, as /tmp is. The same holds for the other files and directories that decide whom the agent trusts
or what it uses: ` + "`ca_file`, `amd_roots`, `vtpm_roots`, `state_dir` and the directory of `socket`" + `. A setting that is not known, or given twice, is an error:
` + "`keyagent config check`" + ` says what is wrong, stage by stage: syntax, values, then what they refer to. 
The file is read at the start and at SIGHUP. ` + "`keyagent reload`, which `systemctl reload keyagent`" + ` runs, sends that signal and waits for what comes of it;
` + "`kill -HUP \"$(cat /var/lib/keyagent/agent.pid)\"`" + ` does not wait (the agent writes its process id into its state directory).
A reload changes ` + "`identities`, `rules`, `caller_identity`, `admins`, `proxy`, `ca_file`, `trusted_hosts`, `attestation` and `log_level`" + `, and reads the files anew that they name. Tokens, certificates and connections
that are still wanted stay. If an authority of ` + "`ca_file` or an entry of `trusted_hosts`" + ` is gone, no token and no connection does: all tokens
are fetched anew. All other settings need a restart: a file that changes one of them is refused as a whole, as is one that is wrong. Then the configuration before stays in force, and the log and ` + "`keyagent status`" + ` say why
([ADR 0014](adr/0014-reload-as-one-exchange.md)).

` + "```yaml" + `
identities:
  - name: vm
    managed_identity: {}
rules:
  - name: web
    users: [www-data]
    identities: [vm]
    resources: ["https://vault.azure.net"]
` + "```" + `

A service is named by its unit, where its user has other programs, too; unmodified SDKs, which come over loopback, are known by user and unit:

` + "```yaml" + `
identities:
  - name: vm
    managed_identity: {}
rules:
  - name: web
    users: [www-data]
    units: [web.service, worker@1.service, apps.slice/batch.service]
    identities: [vm]
    resources: ["https://vault.azure.net"]
` + "```" + `

An app registration is an identity, too. Its credentials are tried in their order; one that cannot be loaded, or that Entra
rejects as a credential, gives way to the next. ` + "`keyagent config import`" + ` writes such an identity from the settings of an app that uses
Microsoft.Identity.Web, and ` + "`keyagent config show`" + ` prints a configuration with its defaults.

` + "```yaml" + `
identities:
  - name: app
    min_strength: tpm
    application:
      tenant: 1f2e3d4c-0000-4000-8000-0000000077e1
      client_id: c0ffee00-0000-4000-8000-0000000000aa
      region: auto
      credentials:
        - source: managed_identity
          managed_identity: {}
        - source: certificate
          key: app
` + "```" + `

This page is made from the comments in config/config.go and the files beside it: ` + "`go test ./config -update`" + `.

`

// TestDocumentationIsCurrent makes docs/configuration.md from the comments of the
// types, so that no setting is left out and none is described twice.
func TestDocumentationIsCurrent(t *testing.T) {
	got := preface + settings(t, "Config", "")
	file := filepath.Join("..", "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/configuration.md is not current; run go test ./config -update (-want +got):\n%s", diff)
	}
}

// What the page shows as a file is one.
func TestTheExamplesOfThePageAreConfigurations(t *testing.T) {
	parts := strings.Split(preface, "```")
	if len(parts) != 7 {
		t.Fatalf("the page has %d fences", len(parts)-1)
	}
	for i := 1; i < len(parts); i += 2 {
		example := strings.TrimPrefix(parts[i], "yaml\n")
		if _, err := config.Parse("example.yaml", []byte(example)); err != nil {
			t.Errorf("%v\n%s", err, example)
		}
	}
}

// settings describes the fields of a type, and of the types below it.
func settings(t *testing.T, typeName, path string) string {
	t.Helper()
	var b strings.Builder
	for _, field := range fieldsOf(t, typeName) {
		tag := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("yaml")
		name, _, _ := strings.Cut(tag, ",")
		below, list := typeBelow(field.Type)
		if name == "" { // an inlined type
			b.WriteString(settings(t, below, path))
			continue
		}
		full := path + name
		if list {
			full += "[]"
		}
		text := strings.TrimSpace(field.Doc.Text() + field.Comment.Text())
		if len(field.Names) > 0 { // "StateDir holds" reads better as "`state_dir` holds" here
			if rest, ok := strings.CutPrefix(text, field.Names[0].Name); ok {
				text = "`" + name + "`" + rest
			}
		}
		fmt.Fprintf(&b, "### `%s`\n\n%s\n\n", full, text)
		if below != "" {
			b.WriteString(settings(t, below, full+"."))
		}
	}
	return b.String()
}

// typeBelow returns the struct type of ours that a field has, if any.
func typeBelow(expr ast.Expr) (name string, list bool) {
	switch e := expr.(type) {
	case *ast.StarExpr:
		return typeBelow(e.X)
	case *ast.ArrayType:
		name, _ = typeBelow(e.Elt)
		return name, name != ""
	case *ast.Ident:
		if ast.IsExported(e.Name) {
			return e.Name, false
		}
	}
	return "", false
}

func fieldsOf(t *testing.T, typeName string) []*ast.Field {
	t.Helper()
	var fields []*ast.Field
	for _, name := range []string{"config.go", "tdx.go", "application.go", "endpoints.go", "admin.go", "takeover.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == typeName {
				fields = spec.Type.(*ast.StructType).Fields.List
			}
			return true
		})
	}
	if len(fields) == 0 {
		t.Fatalf("no file has the type %s", typeName)
	}
	return fields
}
