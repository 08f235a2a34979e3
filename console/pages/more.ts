// Pages that are fetched together, when the first of them is opened.
export { Coverage } from "./coverage.tsx";
export { Host } from "./host.tsx";
export { Hosts } from "./hosts.tsx";
export { Interface, InterfaceCharts, Interfaces } from "./interfaces.tsx";
export { Inventory } from "./inventory.tsx";
export { Matrix } from "./matrix.tsx";
export { Paths } from "./paths.tsx";
export { Rule } from "./rule.tsx";
export { Rules } from "./rules.tsx";
export { Service } from "./service.tsx";
export { Vm } from "./vm.tsx";
export { Why } from "./why.tsx";
export { Vms } from "./vms.tsx";
