package agentapi

import (
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// instancePaths are the paths below /metadata/instance/ that are passed on. # is a number.
var instancePaths = strings.Fields(`
	compute
	compute/additionalCapabilities compute/additionalCapabilities/hibernationEnabled
	compute/azEnvironment compute/customData compute/evictionPolicy
	compute/extendedLocation compute/extendedLocation/name compute/extendedLocation/type
	compute/host compute/host/id compute/hostGroup compute/hostGroup/id
	compute/isHostCompatibilityLayerVm compute/isVmInStandbyPool compute/licenseType compute/location compute/name compute/offer
	compute/osProfile compute/osProfile/adminUsername compute/osProfile/computerName compute/osProfile/disablePasswordAuthentication
	compute/osType compute/physicalZone compute/placementGroupId
	compute/plan compute/plan/name compute/plan/product compute/plan/publisher
	compute/platformFaultDomain compute/platformSubFaultDomain compute/platformUpdateDomain compute/priority compute/provider
	compute/publicKeys compute/publicKeys/# compute/publicKeys/#/keyData compute/publicKeys/#/path
	compute/publisher compute/resourceGroupName compute/resourceId
	compute/securityProfile compute/securityProfile/encryptionAtHost compute/securityProfile/secureBootEnabled
	compute/securityProfile/securityType compute/securityProfile/virtualTpmEnabled
	compute/sku
	compute/storageProfile compute/storageProfile/dataDisks compute/storageProfile/dataDisks/#
	compute/storageProfile/imageReference compute/storageProfile/osDisk compute/storageProfile/resourceDisk compute/storageProfile/resourceDisk/size
	compute/subscriptionId compute/tags compute/tagsList compute/tagsList/# compute/tagsList/#/name compute/tagsList/#/value
	compute/userData compute/version compute/virtualMachineScaleSet compute/virtualMachineScaleSet/id
	compute/vmId compute/vmScaleSetName compute/vmSize compute/zone
	network
	network/interface network/interface/# network/interface/#/macAddress
	network/interface/#/ipv4 network/interface/#/ipv4/ipAddress network/interface/#/ipv4/ipAddress/#
	network/interface/#/ipv4/ipAddress/#/privateIpAddress network/interface/#/ipv4/ipAddress/#/publicIpAddress
	network/interface/#/ipv4/subnet network/interface/#/ipv4/subnet/#
	network/interface/#/ipv4/subnet/#/address network/interface/#/ipv4/subnet/#/prefix
	network/interface/#/ipv6 network/interface/#/ipv6/ipAddress network/interface/#/ipv6/ipAddress/#
	network/interface/#/ipv6/ipAddress/#/privateIpAddress network/interface/#/ipv6/ipAddress/#/publicIpAddress
`)

// instancePath is the spelling of /metadata/instance and of the paths below it.
func instancePath(path string) string {
	below, ok := strings.CutPrefix(path, wire.PathIMDSInstance+"/")
	if !ok || len(below) > maxInstancePathBytes {
		return path
	}
	names := strings.Split(below, "/")
	for i, name := range names {
		if isIndex(name) {
			names[i] = "#"
		} else if name == "#" {
			return path
		}
	}
	if slices.Contains(instancePaths, strings.Join(names, "/")) {
		return wire.PathIMDSInstance
	}
	return path
}

// maxInstancePathBytes is more than the longest path has.
const maxInstancePathBytes = 128

// isIndex reports whether a name is a number as IMDS counts: up to three digits, none in vain.
func isIndex(name string) bool {
	if len(name) == 0 || len(name) > 3 || len(name) > 1 && name[0] == '0' {
		return false
	}
	return strings.Trim(name, "0123456789") == ""
}
