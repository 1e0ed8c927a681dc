package entra_test

import (
	"testing"
)

// Entra knows its own resources with and without a slash behind them, and writes into the token
// what it was asked for.
func TestAnApplicationsTokenHasTheAudienceThatItAskedFor(t *testing.T) {
	w := newWorld(t)
	certificate := w.register(t)
	c := w.client(t, nil, nil)
	for scope, want := range map[string]string{
		vault + "/.default":                    vault,
		vault + "//.default":                   vault + "/",
		vault + "///.default":                  "",
		"https://x.example//.default":          "",
		"api://AzureADTokenExchange//.default": "",
	} {
		t.Run(scope, func(t *testing.T) {
			form := appForm(newDraft(w.login+tokenPath, certificate, w.key).sign(t))
			form.Set("scope", scope)
			a, err := send(t, c, w.login+tokenPath, form)
			if err != nil {
				t.Fatal(err)
			}
			if want == "" {
				checkRefusal(t, a, 400, "invalid_resource", 500011)
				return
			}
			if a.status != 200 || w.claims(t, a.fields.AccessToken)["aud"] != want {
				t.Errorf("answer %d %s, want a token for %s", a.status, a.body, want)
			}
		})
	}
}
