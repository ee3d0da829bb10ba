"""What skl2onnx asks a model of a type unknown to it; nothing is loaded before it asks."""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

from sklearn.mixture import GaussianMixture


class _Plain(GaussianMixture):
    """scikit-learn's mixture with given log weights, which need not be of sum one."""

    log_weights: Any

    def _estimate_log_weights(self, xp: Any = None) -> Any:
        return self.log_weights


class OnnxMixin:
    """A mixture that skl2onnx converts as it converts scikit-learn's."""

    def onnx_parser(self) -> Any:
        """For skl2onnx: the outputs of the converted model."""
        types = import_module("skl2onnx.common.data_types")

        def parser(scope: Any = None, inputs: Any = None) -> list[tuple[str, Any]]:
            number = types.guess_tensor_type(inputs[0].type)
            outputs = [("label", types.Int64TensorType()), ("probabilities", number)]
            if scope.get_options(self, {"score_samples": False})["score_samples"]:
                outputs.append(("score_samples", types.guess_tensor_type(inputs[0].type)))
            return outputs

        return parser

    def onnx_shape_calculator(self) -> Any:
        """For skl2onnx: the shapes of the outputs."""
        registered = import_module("skl2onnx.common._registration")
        return registered.get_shape_calculator("SklearnGaussianMixture")

    def onnx_converter(self) -> Any:
        """For skl2onnx: its converter, of a mixture with the constants that predictions have."""
        registered = import_module("skl2onnx.common._registration")
        convert = registered.get_converter("SklearnGaussianMixture")
        model: Any = self

        def converter(scope: Any, operator: Any, container: Any) -> None:
            plain: Any = _Plain(len(model.means_), covariance_type=model.covariance_type)
            plain.means_ = model.means_
            plain.precisions_cholesky_ = model.precisions_cholesky_
            plain.log_weights = model._estimate_log_weights() + model._log_det_gap()
            # the options are known by the object that they are for
            chosen = container.get_options(model, {"score_samples": False})
            container.options = {**(container.options or {}), id(plain): chosen}
            stand_in = SimpleNamespace(
                inputs=operator.inputs,
                outputs=operator.outputs,
                raw_operator=plain,
                target_opset=operator.target_opset,
            )
            convert(scope, stand_in, container)

        return converter
