package config_test

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
)

func TestAuditAndAdministrators(t *testing.T) {
	long := "/" + strings.Repeat("x", 107)
	for _, tt := range []struct{ name, text, want string }{
		{"audit to a file", "audit: {to: file}", ""},
		{"audit to a file of a name", "audit: {to: file, file: /var/log/x.jsonl, required: true}", ""},
		{"audit to the journal", "audit: {to: journald}", ""},
		{"audit to nowhere", "audit: {to: syslog}", `audit.to: "syslog" is not stdout, file or journald`},
		{"a file that is not used", "audit: {file: /var/log/x.jsonl}", "audit.file: of use only with audit.to: file"},
		{"a file that is not absolute", "audit: {to: file, file: x.jsonl}", `audit.file: path "x.jsonl" is not absolute`},
		{"an administrators' socket", `endpoints: {admin: {socket: /run/keyagent/admin.sock, mode: "0660"}}`, ""},
		{"metrics", "endpoints: {admin: {metrics: 127.0.0.1:9464}}", ""},
		{"metrics over IPv6", `endpoints: {admin: {metrics: "[::1]:9464"}}`, ""},
		{"nothing for administrators", "endpoints: {admin: {}}", "endpoints.admin: neither socket nor metrics is given"},
		{"metrics for everybody", "endpoints: {admin: {metrics: 0.0.0.0:9464}}", "endpoints.admin.metrics: "},
		{"metrics at a name", "endpoints: {admin: {metrics: localhost:9464}}", "endpoints.admin.metrics: "},
		{"metrics at any port", "endpoints: {admin: {metrics: 127.0.0.1:0}}", "endpoints.admin.metrics: "},
		{"metrics without a port", "endpoints: {admin: {metrics: 127.0.0.1}}", "endpoints.admin.metrics: "},
		{"a socket that is not absolute", "endpoints: {admin: {socket: admin.sock}}", `endpoints.admin.socket: path "admin.sock" is not absolute`},
		{"a socket whose path is too long", "endpoints: {admin: {socket: " + long + "}}", "endpoints.admin.socket: path has 108 bytes"},
		{"the agent's own socket", "endpoints: {admin: {socket: /run/keyagent//agent.sock}}", "endpoints.admin.socket: the same as socket"},
		{"a mode that is none", `endpoints: {admin: {socket: /run/a.sock, mode: "rw"}}`, `endpoints.admin.mode: "rw" is not an octal number`},
		{"a mode with more than permissions", `endpoints: {admin: {socket: /run/a.sock, mode: "4755"}}`, `endpoints.admin.mode: "4755"`},
		{"a mode of nothing", `endpoints: {admin: {metrics: "127.0.0.1:9464", mode: "0600"}}`, "endpoints.admin.mode: of use only with endpoints.admin.socket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse("test.yaml", []byte(oneIdentity+tt.text))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want …%s…", err, tt.want)
			}
		})
	}
}

func TestDefaultsOfAuditAndAdministrators(t *testing.T) {
	cfg, err := config.Parse("test.yaml", []byte(oneIdentity+"audit: {to: file}\nendpoints: {admin: {socket: /run/a.sock}}"))
	if err != nil {
		t.Fatal(err)
	}
	if path, mode := cfg.Audit.Path(), cfg.Endpoints.Admin.Permissions(); path != "/var/log/keyagent/audit.jsonl" || mode != 0o666 {
		t.Errorf("records go to %q, the socket has mode %v", path, mode)
	}
	cfg.Endpoints.Admin.Mode = "0660"
	if mode := cfg.Endpoints.Admin.Permissions(); mode != fs.FileMode(0o660) {
		t.Errorf("mode %v", mode)
	}
	if path := (config.Audit{To: config.AuditToStdout}).Path(); path != "" {
		t.Errorf("to standard output, the file is %q", path)
	}
}
