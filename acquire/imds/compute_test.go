package imds_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire/imds"
)

func TestComputeIsWhatIMDSSaysOfTheVM(t *testing.T) {
	t.Parallel()
	const whole = `{"azEnvironment":"AzurePublicCloud","location":"WestEurope","vmSize":"Standard_DC2as_v5","resourceId":"/subscriptions/x",
		"securityProfile":{"securityType":"ConfidentialVM","secureBootEnabled":"true"}}`
	for name, tt := range map[string]struct {
		body string
		want imds.Compute
		fail bool
	}{
		"all of it": {whole, imds.Compute{"westeurope", "AzurePublicCloud", "Standard_DC2as_v5", "ConfidentialVM", "/subscriptions/x"}, false},
		"the region alone, and members of other types": {`{"location":"westeurope","vmSize":7,"securityProfile":[],"azEnvironment":null}`,
			imds.Compute{Region: "westeurope"}, false},
		"control characters are not passed on": {`{"location":"westeurope","vmSize":"a\u001b[2Jb\nc"}`, imds.Compute{Region: "westeurope", Size: "a [2Jb c"}, false},
		"no region":                            {`{"vmSize":"Standard_DC2as_v5"}`, imds.Compute{Size: "Standard_DC2as_v5"}, true},
		"a region that would be a host":        {`{"location":"evil.example/"}`, imds.Compute{}, true},
	} {
		client, _ := newClient(t, &stub{answers: []answer{{status: 200, body: tt.body}}})
		got, err := client.Compute(t.Context())
		if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.fail {
			t.Errorf("%s: %v, -want +got:\n%s", name, err, diff)
		}
		if strings.ContainsAny(got.Size, "\x1b\n") {
			t.Errorf("%s: %q", name, got.Size)
		}
	}
}
