package config

import (
	"fmt"
	"slices"
)

// sectionSettings are the settings that are taken from the section AzureAd, or have a notice of
// their own. Names are in lower case.
var sectionSettings = []string{
	"instance", "tenantid", "authority", "apphometenantid", "clientid", "azureregion", "clientcapabilities", "clientsecret", "clientcredentials",
	"sendx5c", // the agent always sends the chain
}

// entrySettings are the same for an entry of ClientCredentials. Those of certificates are listed
// because there is one notice about certificates.
var entrySettings = []string{
	"sourcetype", "useboundcredential", "skip", "managedidentityclientid", "tokenexchangeurl", "tokenexchangeauthority",
	"signedassertionfilediskpath",
	"keyvaulturl", "keyvaultcertificatename", "base64encodedvalue", "certificatepassword", "certificatediskpath", "certificatestorepath",
	"certificatethumbprint", "certificatedistinguishedname", "certificatesubjectname",
}

// unused notes each setting that is neither known nor empty: it has no effect here. Other apps'
// sections have a notice of their own. Names in notices begin with prefix.
func (s *settings) unused(prefix string, known []string) []string {
	var notices []string
	for folded, setting := range s.below {
		if slices.Contains(known, folded) || !setting.says() || setting.describesApp() {
			continue
		}
		why := "keyagent has no such setting; ignored here"
		switch {
		case slices.Contains(entrySettings, folded):
			why = "belongs in each entry of ClientCredentials; ignored here"
		case slices.Contains(sectionSettings, folded):
			why = "belongs in the section itself; ignored here"
		}
		notices = append(notices, fmt.Sprintf("%s%s: %s", prefix, plainName(setting.name), why))
	}
	slices.Sort(notices)
	return notices
}

// plainName quotes a text that could not be recognised as a name.
func plainName(name string) string {
	if settingPattern.MatchString(name) {
		return name
	}
	return fmt.Sprintf("%q", name)
}
