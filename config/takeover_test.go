package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
)

func TestTakeoverOfTheFile(t *testing.T) {
	const file = "identities: [{name: vm, managed_identity: {}}]\nendpoints: {takeover: {listen: %LISTEN, users: %USERS%MORE}}\n"
	parse := func(listen, users, more string) (*config.Config, error) {
		text := strings.NewReplacer("%LISTEN", listen, "%USERS", users, "%MORE", more).Replace(file)
		return config.Parse("config.yaml", []byte(text))
	}
	for _, tt := range []struct {
		name, listen, users, more string
		want                      string // of the error; "": none
	}{
		{"a good one", `"127.0.0.1:842"`, `[web, "4101"]`, "", ""},
		{"all that can be passed on", `"127.0.0.1:842"`, `[web]`, ", pass: [instance, attested, scheduledevents], refuse_forwarded: true", ""},
		{"nothing that is passed on", `"127.0.0.1:842"`, `[web]`, ", pass: [none]", ""},

		{"no address", `""`, `[web]`, "", "endpoints.takeover.listen"},
		{"another loopback address", `"127.0.0.2:842"`, `[web]`, "", "endpoints.takeover.listen"},
		{"IPv6", `"[::1]:842"`, `[web]`, "", "endpoints.takeover.listen"},
		{"a mapped address", `"[::ffff:127.0.0.1]:842"`, `[web]`, "", "endpoints.takeover.listen"},
		{"a name", `"localhost:842"`, `[web]`, "", "endpoints.takeover.listen"},
		{"all addresses", `"0.0.0.0:842"`, `[web]`, "", "endpoints.takeover.listen"},
		{"no port", `"127.0.0.1"`, `[web]`, "", "endpoints.takeover.listen"},
		{"any port", `"127.0.0.1:0"`, `[web]`, "", "endpoints.takeover.listen"},
		{"a port that anybody may take", `"127.0.0.1:8420"`, `[web]`, "", "any user could listen"},
		{"nobody", `"127.0.0.1:842"`, `[]`, "", "endpoints.takeover.users: none"},
		{"root", `"127.0.0.1:842"`, `[root]`, "", `"root" cannot be taken over`},
		{"root by number", `"127.0.0.1:842"`, `["0"]`, "", `"0" cannot be taken over`},
		{"root by number, in disguise", `"127.0.0.1:842"`, `["000"]`, "", `"000" cannot be taken over`},
		{"Azure's agent", `"127.0.0.1:842"`, `[waagent]`, "", "Azure's agent"},
		{"no name", `"127.0.0.1:842"`, `[""]`, "", "it is no name"},
		{"tokens to be passed on", `"127.0.0.1:842"`, `[web]`, ", pass: [identity]", "endpoints.takeover.pass"},
		{"the same twice", `"127.0.0.1:842"`, `[web]`, ", pass: [instance, instance]", "there twice"},
		{"nothing and something", `"127.0.0.1:842"`, `[web]`, ", pass: [none, instance]", "stands alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(tt.listen, tt.users, tt.more)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for pass, want := range map[string][]string{
		"": {config.PassInstance}, ", pass: []": {config.PassInstance}, ", pass: [none]": nil, ", pass: [attested]": {config.PassAttested},
	} {
		cfg, err := parse(`"127.0.0.1:842"`, "[web]", pass)
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.Endpoints.Takeover.Passes(); !slices.Equal(got, want) {
			t.Errorf("%q: passes %q, want %q", pass, got, want)
		}
	}
	cfg, err := config.Parse("config.yaml", []byte("identities: [{name: vm, managed_identity: {}}]\n"))
	if err != nil || cfg.Endpoints.Takeover != nil {
		t.Errorf("without the setting: %v, %v", cfg, err)
	}
}
