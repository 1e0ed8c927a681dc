package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
)

// oneIdentity is what every configuration needs.
const oneIdentity = "identities:\n  - name: vm\n    managed_identity: {}\n"

func TestEndpoints(t *testing.T) {
	parse := func(endpoints string) (*config.Config, error) {
		return config.Parse("config.yaml", []byte(oneIdentity+"endpoints:\n"+endpoints))
	}
	t.Run("none is the default", func(t *testing.T) {
		cfg, err := config.Parse("config.yaml", []byte(oneIdentity))
		if err != nil || cfg.Endpoints != (config.Endpoints{}) {
			t.Errorf("got %+v, %v", cfg.Endpoints, err)
		}
	})
	for _, listen := range []string{"127.0.0.1:840", "127.0.0.2:1", "[::1]:840", "127.0.0.1:65535"} {
		cfg, err := parse("  app_service: {listen: \"" + listen + "\"}\n")
		if err != nil || cfg.Endpoints.AppService.Listen != listen || cfg.Endpoints.IMDS != nil {
			t.Errorf("%s: %+v, %v", listen, cfg, err)
		}
	}
	tests := []struct{ name, endpoints, says string }{
		{"no address", "  app_service: {}\n", "endpoints.app_service.listen: missing"},
		{"a name", "  imds: {listen: \"localhost:841\"}\n", "endpoints.imds.listen: \"localhost:841\" is not an address and a port"},
		{"no port", "  imds: {listen: \"127.0.0.1\"}\n", "not an address and a port"},
		{"port 0", "  imds: {listen: \"127.0.0.1:0\"}\n", "not an address and a port"},
		{"a port by its name", "  imds: {listen: \"127.0.0.1:http\"}\n", "not an address and a port"},
		{"all addresses", "  app_service: {listen: \"0.0.0.0:840\"}\n", "0.0.0.0 is not a loopback address"},
		{"all addresses of IPv6", "  app_service: {listen: \"[::]:840\"}\n", ":: is not a loopback address"},
		{"another machine's", "  app_service: {listen: \"10.0.0.4:840\"}\n", "10.0.0.4 is not a loopback address"},
		{"IPv4 in IPv6", "  app_service: {listen: \"[::ffff:127.0.0.1]:840\"}\n", "is not a loopback address"},
		{"a zone", "  app_service: {listen: \"[::1%lo]:840\"}\n", "not an address and a port"},
		{"the address of IMDS itself", "  imds: {listen: \"169.254.169.254:80\"}\n", "169.254.169.254 is not a loopback address"},
		{"one address for two", "  app_service: {listen: \"127.0.0.1:840\"}\n  imds: {listen: \"127.0.0.1:840\"}\n", "endpoints.imds.listen: endpoints.app_service has this address, too"},
		{"one address for two, the other being redirected to", "  app_service: {listen: \"127.0.0.1:840\"}\n  takeover: {listen: \"127.0.0.1:840\", users: [www-data]}\n", "endpoints.takeover.listen: endpoints.app_service has this address, too"},
		{"an address that is written otherwise", "  app_service: {listen: \"[0:0::1]:840\"}\n", "is written [::1]:840"},
		{"an endpoint that does not exist", "  arc: {listen: \"127.0.0.1:840\"}\n", "unknown setting arc: there are app_service, imds, admin, takeover here"},
		{"one that is nearly there", "  app-service: {listen: \"127.0.0.1:840\"}\n", "unknown setting app-service: did you mean app_service?"},
		{"a setting of one that is nearly there", "  app_service: {lisen: \"127.0.0.1:840\"}\n", "unknown setting lisen: did you mean listen?"},
		{"a secret", "  app_service: {listen: \"127.0.0.1:840\", secret: x}\n", "unknown setting secret"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(tt.endpoints)
			if _, ok := errors.AsType[*config.Error](err); !ok || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want …%s…", err, tt.says)
			}
		})
	}
}
